"""Faults during tensor parallelism (-sm tensor): of the servers, of their links, and of the client's connections."""
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from namespaces import CABLE, SERVER, Namespaces
from processes import InBackground, Server, completion
from proxy import cutting, proxies
from system import MODEL, PROMPT, RPC_SERVER, SANITIZE, eventually

TENSOR = ['-sm', 'tensor', '-fa', 'on', '-fit', 'off']
OVER_NETWORK = {'GGML_RPC_SHM': 'off'}  # for faults of the links: servers of one machine need them to wake up only


def text(llama, n=120):
    status, said = llama.request('/completion', completion(PROMPT, n, ignore_eos=True), timeout=120)
    assert status == 200, said
    return said['content']


def endless(llama):
    """A request that is generating, until a fault ends it."""
    request = InBackground(llama.request, '/completion', completion(PROMPT, 10_000_000, ignore_eos=True))
    eventually(lambda: any(slot['is_processing'] for slot in llama.request('/slots')[1]), 'it generates')
    return request


def break_link(via, servers):
    """The link that the first server opened to the second one, for good."""
    via.refused_processes = servers[0].workers()
    via.cut(via.refused_processes)


def test_a_lost_link_fails_one_request(lab):
    """The sessions live, so the next request makes the group again."""
    servers = [lab.server('--session-grace', 1, env={**OVER_NETWORK, 'GGML_RPC_RECONNECT_S': 1}) for _ in range(2)]
    with proxies(servers[1]) as [via]:
        llama = lab.llama_server([servers[0], via], more=[*TENSOR, '--context-shift', '-lv', 4])
        expected = text(llama)
        for broken in range(1, 3):
            request = endless(llama)
            break_link(via, servers)
            status, said = request.result(30)
            assert status == 500, said
            via.refused_processes = ()
            assert text(llama) == expected
            eventually(lambda: llama.count('direct all-reduce over tcp') == 1 + broken, 'the group was made again')
            for rank, server in enumerate(servers):
                eventually(lambda: server.count(f'a sum over 2 servers failed at this one, rank {rank}: ') == broken, 'it is logged')
        assert llama.count('is lost') == 0
        assert llama.count('no direct all-reduce') == 0
        llama.wait_for(rf'the link with rank .* of the group broke.*rank 1: {via.endpoint}\)')


def test_servers_that_cannot_reach_each_other_any_more(lab):
    """The tensors are copied through the client from then on."""
    servers = [lab.server('--session-grace', 1, env={**OVER_NETWORK, 'GGML_RPC_RECONNECT_S': 1}) for _ in range(2)]
    with proxies(servers[1]) as [via]:
        llama = lab.llama_server([servers[0], via], more=[*TENSOR, '-lv', 4])
        expected = text(llama, 8)
        break_link(via, servers)
        assert llama.request('/completion', completion(PROMPT, 8))[0] == 500
        assert text(llama, 8) == text(llama, 8) == expected
        llama.wait_for('no direct all-reduce, .*cannot open a link')
        assert llama.count('no direct all-reduce') == 1


@pytest.mark.parametrize('count', [2, 3])
def test_connections_that_are_reset(lab, count):
    """Those of the client and the links, again and again: the text is the same."""
    with proxies(*(lab.server(env=OVER_NETWORK) for _ in range(count))) as via:
        llama = lab.llama_server(via, more=[*TENSOR, '--context-shift', '-lv', 4])
        expected = text(llama)
        for _ in range(2 if SANITIZE else 4):
            with cutting(via, 0.05):
                assert text(llama) == expected
        assert sum(proxy.cuts for proxy in via) > count
        assert llama.count('direct all-reduce over tcp') == 1 and llama.count('graph not computed') == 0


@pytest.mark.parametrize('what', ['client', 'link'])
def test_one_kind_of_connection_is_reset(lab, what):
    servers = [lab.server(env=OVER_NETWORK), lab.server(env=OVER_NETWORK)]
    with proxies(*servers) as via:
        llama = lab.llama_server(via, more=[*TENSOR, '--context-shift', '-lv', 4])
        expected = text(llama)
        processes = [llama.pid] if what == 'client' else servers[0].workers()
        for _ in range(5):
            request = InBackground(text, llama)
            via[1].cut(processes)
            assert request.result() == expected
        assert via[1].cuts == 5 and llama.count('graph not computed') == 0


@pytest.mark.extra
def test_an_outage_of_three_seconds(lab):
    with proxies(*(lab.server(env=OVER_NETWORK) for _ in range(2))) as via:
        llama = lab.llama_server(via, more=[*TENSOR, '--context-shift', '-lv', 4])
        expected = text(llama, 600)
        request = InBackground(text, llama, 600)
        for proxy in via:
            proxy.refuses = True
        time.sleep(0.1)
        for proxy in via:
            proxy.cut()
        time.sleep(3)
        for proxy in via:
            proxy.refuses = False
        assert request.result(60) == expected
        llama.wait_for('reconnected over tcp after [2-9]')
        assert llama.count('graph not computed') == 0


@pytest.mark.parametrize('victim', [0, 1])
def test_llama_server_survives_a_killed_rank(lab, victim):
    servers = [lab.server() for _ in range(2)]
    llama = lab.llama_server(servers, more=[*TENSOR, '--context-shift'])
    request = endless(llama)
    os.kill(min(servers[victim].workers()), signal.SIGKILL)
    assert request.result(30)[0] == 500
    for _ in range(2):
        assert llama.request('/completion', completion(PROMPT, 8), timeout=30)[0] == 500
    llama.wait_for(f'RPC server {servers[victim].endpoint} is lost')
    assert llama.count(f'RPC server {servers[victim].endpoint} is lost') == 1
    assert llama.request('/health')[0] == 200 and llama.stop() == 0


@pytest.mark.parametrize('victim', [0, 1])
def test_llama_server_survives_a_stopped_rank(lab, victim):
    servers = [lab.server() for _ in range(2)]
    llama = lab.llama_server(servers, more=[*TENSOR, '--context-shift'], env={'GGML_RPC_TIMEOUT_S': 4})
    request = endless(llama)
    worker = min(servers[victim].workers())
    os.kill(worker, signal.SIGSTOP)
    assert request.result(30)[0] == 500
    # By another server, or by the client, which waits for them in the order of the ranks.
    name = servers[victim].endpoint
    llama.wait_for(rf'rank {victim} of the group sent nothing for 3 s \(.*rank {victim}: {name}|{name} is lost: no progress')
    os.kill(worker, signal.SIGCONT)
    assert llama.request('/health')[0] == 200 and llama.stop() == 0


@pytest.fixture
def networks():
    made = Namespaces()
    yield made
    made.close()


@pytest.mark.extra
@pytest.mark.parametrize('outage', ['short', 'long'])
def test_a_rank_that_is_cut_off(lab, networks, outage):
    """By a cable that is pulled out: no connection is reset."""
    def server(prefix, host):
        started = lab.start('rpc-server', [*prefix, RPC_SERVER, '-H', host, '-p', 0, '-t', 1, '--links', '10.0.0.0/8,127.0.0.0/8'],
                            env=OVER_NETWORK, tool=False, kind=Server)
        started.endpoint = started.wait_for(r'  endpoint       : (\S+)\n').group(1)
        started.wait_for(r'  sessions       : .*\n')
        return started
    servers = [server(networks.client_prefix(), '127.0.0.1'), server(networks.server_prefix(), SERVER)]

    def start(tokens):
        return lab.start('llama-completion',
                         [*networks.client_prefix(), 'llama-completion', '-m', MODEL, '-p', PROMPT, '-n', tokens, '-c', 256,
                          '--context-shift', '--ignore-eos', '--temp', 0, '-t', 1, '-no-cnv', '--no-warmup', '--simple-io',
                          '--no-display-prompt', '-lv', 4, *lab.where(servers), *TENSOR], env={'GGML_RPC_TIMEOUT_S': 8})
    wanted = lab.expect_exit(start(400)).out
    client = start(400 if outage == 'short' else 1_000_000)
    eventually(lambda: len(client.out()) > 100, 'it generates')
    networks.on_server(f'ip link set {CABLE} down')
    if outage == 'short':
        time.sleep(3)
        networks.on_server(f'ip link set {CABLE} up')
        assert lab.expect_exit(client, 60).out == wanted
        return
    begin = time.monotonic()
    assert client.wait(60) == 1
    assert time.monotonic() - begin < 30
    assert 'direct all-reduce over tcp' in client.err()
    assert servers[1].endpoint in ''.join(line for line in client.err().splitlines() if 'graph not computed' in line or
                                          'is lost' in line), client.err()[-2000:]


@pytest.mark.parametrize('groups', ['0,1 1,0', '0,1 0,2 1,2', '0,1,2 2,0,1'])
def test_contexts_with_groups_in_different_orders(lab, groups):
    servers = [lab.server() for _ in range(1 + int(max(groups)))]
    program = Path(__file__).parent / 'tensor_contexts.py'
    env = {'GGML_RPC_SERVERS': ','.join(server.endpoint for server in servers), 'GGML_RPC_TIMEOUT_S': 20}
    assert lab.run([sys.executable, program, MODEL, 3 if SANITIZE else 20, *groups.split()], env=env).out.endswith('equal\n')


def test_programs_with_groups_in_different_orders(lab):
    servers = [lab.server() for _ in range(3)]

    def start(chosen, more):
        return lab.start('llama-completion', ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 60, '--temp', 0, '-no-cnv', '-t',
                                              1, '--no-warmup', '--no-display-prompt', *lab.where(chosen), *more], ours=bool(chosen))
    expected = lab.expect_exit(start([], [])).out
    assert len(expected) > 150
    for _ in range(1 if SANITIZE else 2):
        running = [start([servers[number] for number in order], TENSOR) for order in ((0, 1, 2), (2, 0, 1), (1, 0))]
        for program in running:
            assert lab.expect_exit(program).out == expected


def test_equal_sums_pass_the_check(lab):
    servers = [lab.server() for _ in range(3)]
    plain = lab.llama_server(servers, more=TENSOR)
    checked = lab.llama_server(servers, more=TENSOR, env={'GGML_RPC_CHECK_REDUCE': 1})
    assert text(checked, 40) == text(plain, 40)


def test_the_check_finds_an_altered_sum(lab):
    """No checksum covers the data of long messages; a link leads through the proxy."""
    servers = [lab.server(env=OVER_NETWORK) for _ in range(2)]
    with proxies(servers[1]) as [via]:
        llama = lab.llama_server([servers[0], via], more=[*TENSOR, '-c', 2048, '-ub', 1024, '-b', 1024],
                                 env={'GGML_RPC_CHECK_REDUCE': 1})
        prompt = {'prompt': [300 + i % 97 for i in range(800)], 'n_predict': 1, 'cache_prompt': False}
        assert llama.request('/completion', prompt)[0] == 200
        via.damaged_processes = servers[0].workers()
        via.damage = 'altered long'
        assert llama.request('/completion', prompt)[0] == 500
        assert llama.count(rf'the sum \S+ differs .*element \d+ of \d+ is .* on rank 0 \({servers[0].endpoint}\) and .* on rank 1 '
                           rf'\({via.endpoint}\)') == 1, llama.log()[-3000:]
        assert llama.request('/completion', prompt)[0] == 200
