"""Peers that are no RPC servers or violate the protocol: the client does not use them and never crashes."""
import socket
import struct
import threading

import pytest

from processes import completion
from stockwire import DEVICE_COUNT, HELLO, answer, receive
from system import MODEL, PROMPT, SANITIZE

SLOW = 4 if SANITIZE else 1

GOOD_HELLO = answer(bytes([8, 0, 0, 0]) + bytes(24))


class FakeServer:
    """Replies to each command from a table, or with `otherwise`. Bytes are the reply, b'' sends none, None disconnects, and a
    function returns any of these from the first 4 KiB of the payload."""

    def __init__(self, table, otherwise=None):
        self._table, self._otherwise = table, otherwise
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.endpoint = f'127.0.0.1:{self._listener.getsockname()[1]}'
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[peer], daemon=True).start()

    def _serve(self, peer):
        try:
            while True:
                number, size = struct.unpack('<BQ', receive(peer, 9))
                payload = b''
                while size > 0 and (got := peer.recv(min(size, 1 << 16))):
                    size -= len(got)
                    payload = (payload + got)[:4096]
                reply = self._table.get(number, self._otherwise)
                reply = reply(payload) if callable(reply) else reply
                if reply is None:
                    break
                peer.sendall(reply)
        except OSError:
            pass
        peer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()


@pytest.mark.parametrize('table,otherwise', [
    ({}, None),
    ({}, b''),
    ({}, b'HTTP/1.1 400 Bad Request\r\n\r\n' * 10),
    ({HELLO: answer(bytes([99, 0, 0, 0]) + bytes(24))}, None),
    ({HELLO: struct.pack('<Q', 2**60) + bytes(4096)}, None),
    ({HELLO: GOOD_HELLO}, None),
    ({HELLO: GOOD_HELLO}, b''),
    ({HELLO: GOOD_HELLO}, b'\xff' * 4096),
    ({HELLO: GOOD_HELLO, DEVICE_COUNT: answer(struct.pack('<I', 2**32 - 1))}, answer(struct.pack('<Q', 4096))),
    ({HELLO: GOOD_HELLO, DEVICE_COUNT: answer(struct.pack('<I', 1))}, answer(struct.pack('<Q', 3))),
    ({HELLO: GOOD_HELLO, DEVICE_COUNT: answer(struct.pack('<I', 1)), 1: answer(struct.pack('<Q', 32))},
     answer(struct.pack('<Q', 0))),
], ids=['hangs-up', 'silent', 'http', 'other-version', 'huge', 'hangs-up-later', 'silent-later', 'garbage-later',
        'many-devices', 'odd-alignment', 'no-memory'])
def test_fake_server_has_no_device(lab, table, otherwise):
    with FakeServer(table, otherwise) as fake:
        listed, done = lab.devices(fake.endpoint, env={'GGML_RPC_TIMEOUT_S': 1, 'GGML_RPC_CONNECT_TIMEOUT_S': 1})
    assert listed == []
    assert len(done.lines(rf'RPC server {fake.endpoint}: ')) == 1 and done.lines('What to do: '), done.log


PLAUSIBLE = {HELLO: GOOD_HELLO, DEVICE_COUNT: answer(struct.pack('<I', 1)),
             1: answer(struct.pack('<Q', 32)), 2: answer(struct.pack('<Q', 2**63)),
             11: answer(struct.pack('<QQ', 2**33, 2**34))}
NO_ANSWER = {number: b'' for number in (4, 5, 6, 10, 12, 16, 17, 18)}
BUFFERS = {0: answer(struct.pack('<QQ', 1, 2**40)), 3: answer(struct.pack('<Q', 2**47)), **NO_ANSWER}


@pytest.mark.parametrize('table,otherwise', [
    (PLAUSIBLE, None),
    (PLAUSIBLE, b''),
    (PLAUSIBLE, b'\xff' * 4096),
    ({**PLAUSIBLE, 0: answer(bytes(16))}, None),                                # every allocation fails
    ({**PLAUSIBLE, 0: answer(struct.pack('<QQ', 1, 1))}, answer(bytes(8))),     # less than requested
    ({**PLAUSIBLE, 0: answer(struct.pack('<QQ', 1, 2**64 - 1)), 3: answer(struct.pack('<Q', 2**64 - 4096))}, None),
    ({**PLAUSIBLE, **BUFFERS}, None),                                           # accepts all, disconnects at the first read
    ({**PLAUSIBLE, **BUFFERS}, answer(b'short')),
    ({**PLAUSIBLE, **BUFFERS, 13: answer(struct.pack('<Q', 2**64 - 1))}, b'\xff' * 4096),
], ids=['hangs-up', 'silent', 'garbage', 'no-memory', 'too-small', 'overflow', 'hangs-up-later', 'short', 'vast'])
def test_client_survives_a_fake_server(lab, table, otherwise):
    """The devices look valid until they are used."""
    with FakeServer(table, otherwise) as fake:
        client = lab.start('llama-completion',
                           ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-t', 1, '--no-warmup',
                            '-ngl', 99, '--rpc', fake.endpoint],
                           env={'GGML_RPC_TIMEOUT_S': 1, 'GGML_RPC_CONNECT_TIMEOUT_S': 1})
        done = lab.expect_exit(client, 20 * SLOW, rc=None)
    # A failed read is reported to llama.cpp by the next launch. If there is none, only the log has the failure.
    assert done.rc == 1 or done.lines(rf'{fake.endpoint}.* (is lost|cannot)'), done.log


def numbers(*values):
    return answer(struct.pack(f'<{len(values)}Q', *values))


class Memory:
    """Buffers of the requested sizes at distinct addresses. They store nothing."""

    def __init__(self, size=lambda requested: requested, base=lambda handle: handle << 44):
        self.size, self.base, self.count = size, base, 0

    def allocate(self, payload):
        self.count += 1
        return numbers(self.count, self.size(struct.unpack('<IQ', payload)[1]))

    def table(self):
        return {**PLAUSIBLE, **NO_ANSWER, 0: self.allocate, 7: answer(b'\0'), 9: answer(b'\1'),
                3: lambda payload: numbers(self.base(struct.unpack('<Q', payload)[0])),
                8: lambda payload: answer(bytes(struct.unpack('<Q', payload[304:312])[0])),
                13: numbers(0)}


GOOD, REFUSED = 0, 1


@pytest.mark.parametrize('memory,table,rc', [
    (Memory(), {}, GOOD),
    (Memory(), {1: numbers(1)}, GOOD),
    (Memory(), {2: numbers(1)}, GOOD),
    (Memory(), {2: numbers(2**64 - 1)}, GOOD),
    (Memory(), {11: numbers(0, 0)}, GOOD),
    (Memory(), {11: numbers(2**64 - 1, 2**64 - 1)}, GOOD),
    (Memory(), {11: numbers(2**64 - 1, 2**33)}, GOOD),
    (Memory(), {13: numbers(2**64 - 64)}, GOOD),
    (Memory(), {13: numbers(2**62)}, GOOD),
    (Memory(base=lambda handle: 0x1000), {}, GOOD),
    (Memory(base=lambda handle: 2**64 - 2**40), {}, GOOD),
    (Memory(base=lambda handle: (handle << 44) + 1), {}, REFUSED),
    (Memory(base=lambda handle: 4), {}, REFUSED),
    (Memory(base=lambda handle: 2**64 - 32), {}, REFUSED),
    (Memory(size=lambda requested: 2**62), {}, REFUSED),
    (Memory(size=lambda requested: requested - 1), {}, REFUSED),
    (Memory(), {1: numbers(2**40)}, GOOD),
    (Memory(), {1: numbers(2**63)}, GOOD),
], ids=['good', 'alignment-1', 'max-1', 'max-all', 'no-memory', 'all-memory', 'free-beyond-total', 'size-near-overflow',
        'vast-tensors', 'one-base', 'high-base', 'odd-base', 'low-base', 'base-at-the-end', 'vast-buffers', 'small-buffers',
        'alignment-2^40', 'alignment-2^63'])
def test_values_that_ggml_computes_with(lab, memory, table, rc):
    """ggml's allocator aborts the program if they break its rules. A server whose devices are refused at the first contact is
    not used, which is no failure to llama.cpp."""
    with FakeServer({**memory.table(), **table}) as fake:
        client = lab.start('llama-completion',
                           ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-c', 256, '-no-cnv', '-t', 1,
                            '--no-warmup', '-ngl', 99, '--rpc', fake.endpoint],
                           env={'GGML_RPC_TIMEOUT_S': 2, 'GGML_RPC_CONNECT_TIMEOUT_S': 2})
        lab.expect_exit(client, 20 * SLOW, rc=rc)


# --- a connection that is spoiled ------------------------------------------------------------------------------------

class Proxy:
    """Forwards between a client and a server. spoil() changes what passes."""

    def __init__(self, server):
        host, port = server.endpoint.split(':')
        self._target = host, int(port)
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.endpoint = f'127.0.0.1:{self._listener.getsockname()[1]}'
        self._to_client = self._to_server = lambda data: data
        threading.Thread(target=self._accept, daemon=True).start()

    def spoil(self, to_client=lambda data: data, to_server=lambda data: data):
        """Filters all later data through these functions; None disconnects both peers."""
        self._to_client, self._to_server = to_client, to_server

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for ends in (client, server, lambda: self._to_server), (server, client, lambda: self._to_client):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    @staticmethod
    def _pass(source, sink, filter_now):
        try:
            while data := source.recv(1 << 16):
                changed = filter_now()(data)
                if changed is None:
                    break
                sink.sendall(changed)
        except OSError:
            pass
        for end in source, sink:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()


@pytest.mark.parametrize('spoiled', [
    {'to_client': lambda data: None},
    {'to_client': lambda data: b'\xff' * len(data)},
    {'to_client': lambda data: data[:-1]},
    {'to_server': lambda data: None},
    {'to_server': lambda data: b'\xff' * len(data)},
    {'to_server': lambda data: data[:5]},
], ids=['reset', 'garbage', 'short', 'reset-upwards', 'garbage-upwards', 'short-upwards'])
def test_connection_is_spoiled_during_generation(lab, spoiled):
    server = lab.server()
    with Proxy(server) as proxy:
        llama = lab.llama_server([proxy], env={'GGML_RPC_TIMEOUT_S': 2, 'GGML_RPC_CONNECT_TIMEOUT_S': 1})
        llama.complete(n=4)
        proxy.spoil(**spoiled)
        assert llama.request('/completion', completion(PROMPT, 64), timeout=20 * SLOW)[0] == 500
        llama.wait_for(f'RPC server {proxy.endpoint} is lost: ')
        assert llama.request('/health')[0] == 200
        llama.stop()
    server.wait_idle(20)
    assert server.count('died of') == 0
