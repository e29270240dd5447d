"""Clients that stay silent, send garbage or request too much lose their connection. Other clients are not affected."""
import socket
import struct
import time

import pytest

from harness import local_logits, same
from stockwire import DEVICE_COUNT, HELLO, answer, command, connect, greet, hello, is_dropped, receive, receive_reply
from system import SANITIZE

SLOW = 4 if SANITIZE else 1


def test_silent_clients_are_dropped_and_block_no_other(lab):
    server = lab.server()
    silent, half = connect(server), connect(server)
    half.sendall(command(HELLO, bytes(24))[:20])
    begun = greet(server)
    begun.sendall(command(DEVICE_COUNT)[:5])
    idle = greet(server)
    began = time.monotonic()
    same(lab.logits([server]), local_logits(lab))
    with silent, half, begun, idle:
        for peer in silent, half, begun:
            assert is_dropped(peer)
        assert 8 < time.monotonic() - began < 12 + 8 * SLOW
        idle.sendall(command(DEVICE_COUNT))  # it had sent complete messages only
        assert receive(idle, 12) == answer(struct.pack('<I', 1))
    assert server.count('warning: dropping .*: no complete handshake or command within 10 s') == 3


@pytest.mark.parametrize('garbage', [
    b'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
    b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(100),
    bytes(range(256)) * 64,
    b'\xff' * 4096,
    struct.pack('<BQ', HELLO, 2**64 - 1) + bytes(64),
    struct.pack('<BQ', HELLO, 0),
    command(DEVICE_COUNT),
], ids=['http', 'tls', 'counting', 'ones', 'endless', 'empty', 'no-hello'])
def test_garbage_instead_of_a_handshake(lab, garbage):
    server = lab.server()
    with connect(server) as peer:
        peer.sendall(garbage)
        assert is_dropped(peer)
    server.wait_for('warning: dropping 127.0.0.1:')
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]
    assert server.stop() == 0


@pytest.mark.parametrize('number,payload', [
    (HELLO, bytes(24)), (23, b''), (63, b''), (83, b''), (255, bytes(8)),
    (1, struct.pack('<I', 5)), (11, struct.pack('<I', 2**32 - 1)),            # unknown devices
    (0, struct.pack('<IQ', 9, 100)), (4, struct.pack('<Q', 12345)), (5, struct.pack('<QB', 1, 0)),
    (6, bytes(305)), (7, bytes(312)), (8, b'\xff' * 312), (9, bytes(592)), (10, bytes(20)), (10, b'\xff' * 4096),
    (12, bytes(296)), (13, b'\xff' * 3260), (16, bytes(12)), (17, b'\xff' * 313), (18, bytes(328)), (19, b'\xff' * 328),
    (21, bytes(64)), (22, bytes(8)),
], ids=lambda value: str(value)[:12] if isinstance(value, int) else f'{len(value)}')
def test_invalid_command_in_a_session(lab, number, payload):
    """Ends its own session at worst. The worker does not die of a signal, and the server stays up."""
    server = lab.server()
    with greet(server) as peer:
        peer.sendall(command(0, struct.pack('<IQ', 0, 4096)))
        receive(peer, 24)
        peer.sendall(command(number, payload))
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass
    server.wait_idle(20)
    assert server.count('died of') == 0
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]


# Sizes that differ by one byte from the smallest and, if there is one, the largest size of each command (docs/protocol.md).
INVALID_SIZES = {
    'DECLARE': (64, 77, 79), 'WRITE': (65, 10), 'READ': (66, 17, 19), 'FILL': (67, 18, 20), 'COPY': (68, 3, 5), 'GRAPH': (69, 11),
    'LAUNCH': (70, 1, 3), 'SUPPORTS': (71, 7), 'FIND': (72, 49, 51), 'INVITE': (73, 1), 'CONNECT': (74, 9, 1035),
    'PUSH': (75, 3, 5), 'TAKE': (76, 9, 11), 'INITIALIZE': (77, 1, 3), 'FACTS': (78, 1), 'CLOCK': (79, 1), 'SPANS': (80, 1),
    'GROUP': (81, 5, 167), 'REDUCE': (82, 6, 38), 'FIND_PART': (83, 113, 115), 'ALGORITHM': (84, 9, 11),
}


def test_native_command_of_an_invalid_size(lab):
    """Ends its own session, with the reason sent to the client."""
    server = lab.server()
    assert [number for number, *_ in INVALID_SIZES.values()] == list(range(64, 85))
    for name, (number, *sizes) in INVALID_SIZES.items():
        for size in sizes:
            with greet(server, native=True) as peer:
                peer.sendall(command(number, bytes(size)))
                assert receive_reply(peer) == (1, f'{name}: invalid payload size of {size} bytes'.encode())
                assert is_dropped(peer)
    server.wait_idle(20)
    assert server.count('died of') == 0


@pytest.mark.parametrize('features', [None, 0], ids=['stock', 'caravan'])
def test_native_command_of_a_client_that_has_not_announced_the_dialect(lab, features):
    """Its session ends. It expects no reply that it cannot read."""
    server = lab.server()
    with connect(server) as peer:
        peer.sendall(command(HELLO, bytes(24)) if features is None else hello(features))
        receive(peer, 36)
        peer.sendall(command(0, struct.pack('<IQ', 0, 4096)))
        receive(peer, 24)
        peer.sendall(command(78))  # FACTS
        assert is_dropped(peer)
    server.wait_for('FACTS: the client has not announced the native dialect')


def test_native_command_to_a_server_without_the_dialect(lab):
    server = lab.server(env={'GGML_RPC_DIALECT': 'stock'})
    with greet(server, native=True) as peer:
        peer.sendall(command(78))
        assert is_dropped(peer)
    server.wait_for('FACTS: the client has not announced the native dialect')


def test_oversized_allocation_is_refused(lab):
    """The session continues after a refusal."""
    server = lab.server()
    with greet(server) as peer:
        for size in 2**40, 2**63, 2**64 - 1:
            peer.sendall(command(0, struct.pack('<IQ', 0, size)))
            assert receive(peer, 24) == answer(bytes(16))
        peer.sendall(command(0, struct.pack('<IQ', 0, 4096)))
        assert receive(peer, 24)[8:16] != bytes(8)
    server.wait_idle(20)
    assert server.count('died of') == 0


def test_many_short_connections(lab):
    server = lab.server()
    for _ in range(100):
        greet(server).close()
    peers = [connect(server) for _ in range(50)]
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]
    for peer in peers:
        peer.close()
    assert server.running()
