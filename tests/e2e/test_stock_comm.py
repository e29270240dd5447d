"""rpc-server --stock-comm: stock clients have two servers add up tensors, also one of ours with a stock one."""
import os
import signal
import socket
import struct
import subprocess
import time

import pytest

import stockwire
from stockwire import command, is_dropped, receive, receive_reply
from system import MODEL, PROMPT, RPC_SERVER, TEXT, eventually
from test_tensor import TENSOR, WORDS, local_text, log_probabilities

JOINED = 'pairwise communicator initialized'
ADDS = r'adds up tensors of device 0 with .*, as rank '
COMM_INIT, COMM_ALLREDUCE = 20, 21


def start(lab, kinds):
    return [lab.stock_server() if kind == 'stock' else lab.server('--stock-comm') for kind in kinds.split('+')]


def text(lab, servers, **options):
    return lab.run(['llama-completion', '-m', MODEL, *WORDS, *lab.where(servers), *TENSOR], ours=False, **options)


@pytest.mark.parametrize('kinds', ['ours+ours', 'ours+stock', 'stock+ours'])
def test_text_is_the_local_one(lab, kinds):
    servers = start(lab, kinds)
    done = text(lab, servers)
    assert done.out == local_text(lab)
    for rank, server in enumerate(servers):
        assert server.is_stock or server.wait_for(rf'{ADDS}{rank}')


@pytest.mark.parametrize('kinds', ['ours+ours', 'ours+stock', 'stock+ours'])
def test_prompts_are_rounded(lab, kinds):
    """A batch of 128 tokens and more is sent as bfloat16."""
    more = [*TENSOR, '-c', 256, '-b', 256, '-ub', 256]
    servers = start(lab, kinds)
    rounded = list(log_probabilities(lab.logits(servers, chunks=1, ours=False, more=more)))
    exact = list(log_probabilities(lab.logits([lab.server(), lab.server()], chunks=1, more=more)))
    differences = [abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    assert 0 < sum(differences) / len(differences) < 0.1


@pytest.mark.parametrize('kinds', ['ours+ours', 'ours+stock', 'stock+ours'])
def test_without_the_option_the_client_adds_up(lab, kinds):
    """A stock rank 0 would wait for rank 1 without limit; it gets a refusal at once."""
    servers = [lab.stock_server() if kind == 'stock' else lab.server() for kind in kinds.split('+')]
    assert text(lab, servers, timeout=40).out == local_text(lab)
    for server in servers:
        assert server.is_stock or server.wait_for(r'declined .*COMM_INIT.*runs without --stock-comm')


def endless(lab, servers):
    client = lab.start('llama-completion', ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 1_000_000, '-c', 256,
                                            '--context-shift', '--ignore-eos', '-t', 1, '-no-cnv', '--no-warmup', '-lv', 4,
                                            *lab.where(servers), *TENSOR], ours=False)
    eventually(lambda: len(client.out()) > 300, 'it generates')
    assert JOINED in client.log()
    return client


def test_only_one_client_at_a_time(lab):
    """Connections have no names: those of two clients could be mixed up."""
    servers = start(lab, 'ours+ours')
    first = endless(lab, servers)
    done = text(lab, servers)
    assert done.out == local_text(lab)
    for server in servers:
        server.wait_for('declined .*COMM_INIT.*another session')
    first.kill()
    for server in servers:
        server.wait_idle()
    text(lab, servers)
    for server in servers:
        assert server.count(ADDS) == 2


def test_comm_of_a_full_server_is_reused(lab):
    """Each context of a program has its own comm, one after the other."""
    servers = start(lab, 'ours+ours')
    for _ in range(3):
        text(lab, servers)
    for server in servers:
        assert server.count(ADDS) == 3


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_rank_ends_the_other_session(lab, victim):
    servers = start(lab, 'ours+ours')
    client = endless(lab, servers)
    began = time.monotonic()
    servers[victim].kill()
    assert client.wait(30) != 0
    survivor = servers[1 - victim]
    survivor.wait_idle(timeout=20)
    assert time.monotonic() - began < 20
    # The stock client aborts, which the survivor may notice first.
    assert survivor.count(rf'COMM_ALLREDUCE: the link with rank {victim} of the group broke|the client left; \d+ graphs')
    assert text(lab, [survivor, *start(lab, 'ours')]).out == local_text(lab)


def test_a_killed_client_stops_the_wait_for_the_other_rank(lab):
    servers = start(lab, 'ours+ours')
    client = endless(lab, servers)
    worker = max(servers[1].workers(), key=lambda pid: sum(map(int, open(f'/proc/{pid}/stat').read().split()[13:15])))
    os.kill(worker, signal.SIGSTOP)
    try:
        client.kill()
        servers[0].wait_idle(timeout=20)
    finally:
        os.kill(worker, signal.SIGCONT)


# --- hostile peers ----------------------------------------------------------------------------------------------------

def comm_port(server):
    return int(server.endpoint.rsplit(':', 1)[1]) + 1000


def init(rank=0, port=0, world=2, host=b'127.0.0.1', device=0):
    return command(COMM_INIT, struct.pack('<4I64s', device, rank, world, port, host))


def reply(peer):
    kind, payload = receive_reply(peer)
    assert kind == 0
    return payload


def rank_1(server):
    """Connects as soon as the server listens."""
    def connected():
        try:
            return socket.create_connection(('127.0.0.1', comm_port(server)), timeout=30)
        except ConnectionRefusedError:
            return None
    return eventually(connected, 'the server listens for rank 1')


def test_the_port_is_open_only_while_rank_1_is_awaited(lab):
    server, = start(lab, 'ours')
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.1', comm_port(server)))
        with stockwire.greet(server) as client:
            client.sendall(init(port=comm_port(server)))
            with rank_1(server) as peer, rank_1(server) as late:
                peer.sendall(bytes(24))
                assert receive(peer, 24) == bytes(24) and reply(client) == b'\1'
                assert is_dropped(late)
        server.wait_idle()


def test_impossible_comms_are_declined(lab):
    server, = start(lab, 'ours')
    with stockwire.greet(server) as client:
        for request in [init(port=1), init(rank=7, port=comm_port(server)), init(world=3, port=comm_port(server)),
                        init(rank=1, port=1 << 20), init(rank=1, port=22, host=b'\xff' * 64)]:
            client.sendall(request)
            assert reply(client) == b'\0'
        client.sendall(init(port=comm_port(server)))
        with rank_1(server) as peer:
            peer.sendall(bytes(24))
            assert reply(client) == b'\1', 'the session continues'


def test_rank_1_that_never_comes_is_not_awaited_for_long(lab):
    server, = start(lab, 'ours')
    with stockwire.greet(server) as client:
        began = time.monotonic()
        client.sendall(init(port=comm_port(server)))
        assert reply(client) == b'\0' and 5 < time.monotonic() - began < 20


def test_strangers_do_not_become_rank_1(lab):
    server, = start(lab, 'ours')
    with stockwire.greet(server) as client:
        client.sendall(init(port=comm_port(server)))
        with rank_1(server) as silent, rank_1(server) as other, rank_1(server) as peer:
            other.sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
            peer.sendall(bytes(24))
            assert is_dropped(silent) and is_dropped(other)
            assert receive(peer, 24) == bytes(24) and reply(client) == b'\1'


def test_links_off_permits_no_comm(lab):
    server = lab.server('--stock-comm', '--links', 'off')
    with stockwire.greet(server) as client:
        client.sendall(init(port=comm_port(server)))
        with rank_1(server) as peer:
            peer.sendall(bytes(24))
            assert is_dropped(peer)
        assert reply(client) == b'\0'
        server.wait_for('is not within --links')


def test_clients_learn_nothing_about_other_hosts(lab):
    """An open port, a closed one, and a service of another protocol: the same reply after the same time."""
    server, = start(lab, 'ours')
    with socket.create_server(('127.0.0.1', 0)) as service, stockwire.greet(server) as client:
        durations = []
        for port in (service.getsockname()[1], 1):
            began = time.monotonic()
            client.sendall(init(rank=1, port=port))
            if not durations:
                stranger, _ = service.accept()
                stranger.sendall(b'220 mail.example ESMTP ready\r\n')
            assert reply(client) == b'\0'
            durations.append(time.monotonic() - began)
        assert all(4.9 < duration < 7 for duration in durations), durations


def test_reduction_without_comm_ends_the_session(lab):
    server, = start(lab, 'ours')
    with stockwire.greet(server) as client:
        client.sendall(command(COMM_ALLREDUCE, bytes(300)))
        assert is_dropped(client)
        server.wait_for('COMM_ALLREDUCE: device 0 has no comm')


@pytest.mark.parametrize('options, rc, why', [
    (['-H', 'unix:/tmp/x.sock'], 2, 'a Unix socket has no port'),
    (['-p', '65000'], 1, 'use a lower port')])
def test_impossible_options(lab, options, rc, why):
    done = subprocess.run([RPC_SERVER, '--stock-comm', *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == rc and why in done.stdout + done.stderr


def test_taken_port_is_an_error_at_the_start(lab):
    for _ in range(5):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            port = taken.getsockname()[1] - 1000
            done = subprocess.run([RPC_SERVER, '--stock-comm', '-p', str(port)], capture_output=True, text=True, timeout=60,
                                  check=False)
            said = done.stdout + done.stderr
            assert done.returncode == 1
            if f'--stock-comm needs port {port + 1000} as well' in said:
                return
    raise AssertionError(said)
