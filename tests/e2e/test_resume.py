"""Connections that break while a session goes on over them: it survives, and nothing that it computes changes."""
import itertools
import os
import signal
import struct
import time

import pytest

import stockwire
from harness import local_logits, same
from processes import InBackground, completion
from proxy import cutting, proxies
from system import PROMPT, SANITIZE, eventually

ROUNDS = 2 if SANITIZE else 5


def loaded_llama(lab, via, **kwargs):
    return lab.llama_server(via, more=['--context-shift'], **kwargs)


def text(llama, n=120):
    status, said = llama.request('/completion', completion(PROMPT, n, ignore_eos=True), timeout=120)
    assert status == 200, said
    return said['content']


@pytest.mark.parametrize('count', [1, 2])
def test_generation_goes_on_when_connections_are_reset(lab, count):
    """With two servers, the link between them breaks as well: it leads through a proxy, too."""
    servers = [lab.server() for _ in range(count)]
    with proxies(*servers) as via:
        llama = loaded_llama(lab, via)
        expected = text(llama)
        for _ in range(ROUNDS):
            with cutting(via, 0.05):
                assert text(llama) == expected
        assert sum(proxy.cuts for proxy in via) >= ROUNDS
        log = llama.log()
        assert '; reconnected over tcp' in log and 'is lost' not in log
        assert llama.stop() == 0
    for server in servers:
        server.wait_idle()
        assert 'Connected again: 127.0.0.1' in server.out()


def test_logits_are_the_same(lab):
    servers = [lab.server() for _ in range(2)]
    with proxies(*servers) as via:
        finish = lab.start_logits(via, chunks=16)
        eventually(lambda: all(proxy.passed > 100_000 for proxy in via), 'it has begun')
        with cutting(via, 0.1):
            same(finish(), local_logits(lab, chunks=16))


@pytest.mark.parametrize('life', [0, 1, 50, 75, 110, 150, 250, 600])
def test_connections_that_are_reset_while_they_are_opened(lab, life):
    """Every second one, those for questions too."""
    expected = local_logits(lab)
    with proxies(lab.server()) as [proxy]:
        proxy.short_lived = itertools.cycle([life, None])
        same(lab.logits([proxy]), expected)
        assert proxy.cuts >= 1


def test_a_program_that_starts_in_an_outage_says_why_it_waits(lab):
    with proxies(lab.server()) as [proxy]:
        proxy.refuses = True
        program = lab.start('llama-bench', ['llama-bench', '--rpc', proxy.endpoint, '--list-devices'])
        program.wait_for(f'{proxy.endpoint}: .*reset.*: retrying for about 5 s')
        proxy.refuses = False
        lab.expect_exit(program)
        assert 'RPC0' in program.log()


def test_weights_arrive_whole(lab):
    """Cut after every megabyte or so, while they are sent."""
    server = lab.server()
    with proxies(server) as via:
        via[0].cut_after = 1_000_000
        finish = lab.start_logits(via)
        eventually(lambda: via[0].cuts >= 3, 'connections were cut')
        same(finish(), local_logits(lab))


def test_a_connection_that_breaks_while_nobody_uses_it(lab):
    server = lab.server()
    with proxies(server) as via:
        llama = loaded_llama(lab, via)
        expected = text(llama, 8)
        via[0].cut()
        eventually(lambda: 'Connected again' in server.out(), 'the client comes back by itself', 20)
        assert text(llama, 8) == expected


@pytest.mark.parametrize('count, length', [(1, 3), (2, 7)])
def test_an_outage_of_some_seconds(lab, count, length):
    """Nothing can connect meanwhile, servers that are linked neither."""
    with proxies(*(lab.server() for _ in range(count))) as via:
        llama = loaded_llama(lab, via)
        begin = time.monotonic()
        expected = text(llama, 1500)
        time.sleep(max(0, begin + 1.5 - time.monotonic()))  # lifelines are up
        request = InBackground(text, llama, 1500)
        for proxy in via:
            proxy.refuses = True
        time.sleep(0.1)
        for proxy in via:
            proxy.cut()
        time.sleep(length)
        for proxy in via:
            proxy.refuses = False
        assert request.result(60) == expected
        assert llama.count(f'reconnected over tcp after [{length - 1}-9]') >= count


def test_an_orderly_end_is_none_while_the_lifeline_is_up(lab):
    """Of the link either: its lifeline leads from one server to the other."""
    with proxies(*(lab.server() for _ in range(2))) as via:
        llama = loaded_llama(lab, via)
        begin = time.monotonic()
        expected = text(llama, 600)
        time.sleep(max(0, begin + 1.5 - time.monotonic()))  # lifelines are up
        request = InBackground(text, llama, 600)
        time.sleep(0.2)
        for proxy in via:
            proxy.close_busy()
        assert request.result(60) == expected
        assert [proxy.cuts for proxy in via] == [1, 2]  # sessions, and the link
        assert 'is lost' not in llama.log()


def test_a_client_that_does_not_come_back_is_forgotten(lab):
    server = lab.server('--session-grace', 2)
    with proxies(server) as via:
        llama = loaded_llama(lab, via)
        llama.signal(signal.SIGSTOP)
        begin = time.monotonic()
        via[0].cut()
        server.wait_idle(20)
        assert time.monotonic() - begin > 1.5
        llama.signal(signal.SIGCONT)
        assert llama.request('/completion', completion(PROMPT, 8), timeout=60)[0] == 500
        llama.wait_for('is lost: .*the server has ended the session')


@pytest.mark.parametrize('side', ['client', 'server'])
def test_it_can_be_turned_off(lab, side):
    server = lab.server(*(['--session-grace', 0] if side == 'server' else []))
    with proxies(server) as via:
        llama = loaded_llama(lab, via, env={'GGML_RPC_RECONNECT_S': '0'} if side == 'client' else None)
        via[0].cut()
        assert llama.request('/completion', completion(PROMPT, 8), timeout=60)[0] == 500
        server.wait_idle(10)


def test_a_killed_client_is_forgotten_at_once(lab):
    """Its connection is closed by its kernel, not cut by the network."""
    server = lab.server()
    for _ in range(3):
        client = lab.endless_completion([server])
        client.kill()
        server.wait_idle(2)


def hello(token, features=6):
    return struct.pack('<I8sIQ', 0, b'CARAVAN1', features, token)


def resume(server, token):
    peer = stockwire.connect(server)
    peer.sendall(stockwire.command(14, hello(token)))
    answer = stockwire.receive(peer, 36)
    peer.sendall(stockwire.command(132, struct.pack('<QI', 0, 1)))
    return peer, struct.unpack('<Q', answer[-8:])[0]


def test_an_attempt_to_resume_that_comes_late_ends_nothing(lab):
    """The session goes on over its connection, and does not depend on that of the attempt."""
    server = lab.server()
    with stockwire.connect(server) as session:
        session.sendall(stockwire.command(14, hello(0, 4)))
        token, = struct.unpack('<Q', stockwire.receive(session, 36)[-8:])
        session.sendall(stockwire.command(133))  # RECORDS
        server.wait_for('session 1')
        with stockwire.connect(server) as late:
            late.sendall(stockwire.command(14, hello(token, 4)))
            stockwire.receive(late, 36)
            late.sendall(stockwire.command(132, struct.pack('<QI', 0, 0)))  # RESUME; attempts count from 1
            server.wait_for('Connected again')
        session.settimeout(2)
        with pytest.raises(TimeoutError):
            session.recv(1)
    server.wait_idle(10)


def test_nobody_resumes_a_session_without_its_token(lab):
    server = lab.server()
    with proxies(server) as via:
        llama = loaded_llama(lab, via)
        expected = text(llama, 8)
        own = None
        for token in (1, 2**64 - 1, *os.urandom(8)):
            peer, own = resume(server, token)
            assert own != 0
            assert stockwire.is_dropped(peer)
        # Nor with the token of a connection on which no session began.
        peer, _ = resume(server, own)
        assert stockwire.is_dropped(peer)
        eventually(lambda: server.count('it resumes a session or link that has ended') == 11, 'lines about them')
        assert text(llama, 8) == expected
