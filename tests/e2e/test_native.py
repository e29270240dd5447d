"""The native dialect, between two Caravan peers: links between servers, queries for supported ops, error texts."""
import csv
import json
import struct
import time

import pytest

import stockwire
from harness import local_logits, same
from processes import InBackground
from system import MODEL, TEST_BACKEND_OPS, eventually

VERBOSE = ['-lv', 4]
INVITE, LINK = 73, 130


def linked(server):
    return 'Accepted a link from the server at' in server.log()


def test_servers_send_directly_to_each_other(lab):
    servers = [lab.server() for _ in range(3)]
    logits, log = lab.logits(servers, more=VERBOSE), lab.processes[-1].log()
    same(logits, local_logits(lab))
    assert [linked(server) for server in servers] == [False, True, True]
    assert f'RPC server {servers[0].endpoint} sends directly to {servers[1].endpoint} over tcp' in log
    assert f'RPC server {servers[1].endpoint} sends directly to {servers[2].endpoint} over tcp' in log


def test_unreachable_servers_relay_through_client(lab):
    """Another server cannot connect to a Unix socket."""
    servers = [lab.server(), lab.server(host=f'unix:{lab.folder}/rpc.sock')]
    logits, log = lab.logits(servers, more=VERBOSE), lab.processes[-1].log()
    same(logits, local_logits(lab))
    assert 'no direct link from ' in log and 'links require TCP or RDMA' in log
    assert not any(linked(server) for server in servers)


def test_links_can_be_switched_off(lab):
    servers = [lab.server('--links', 'off'), lab.server()]
    logits, log = lab.logits(servers, more=VERBOSE), lab.processes[-1].log()
    same(logits, local_logits(lab))
    assert 'no direct link from ' in log and 'not within --links' not in log
    assert servers[0].count('warning: cannot open the link to .* that the client requested: not within --links') == 1
    assert not any(linked(server) for server in servers)


def test_links_with_micro_batches(lab):
    servers = [lab.server() for _ in range(2)]
    more = ['-b', 64, '-ub', 16]
    same(lab.logits(servers, more=more), local_logits(lab, more=more))
    assert linked(servers[1])


def test_two_devices_of_one_server(lab):
    server = lab.server('-d', 'CPU', '-d', 'CPU')
    same(lab.logits([server]), local_logits(lab))
    assert server.served() > 0


def test_two_devices_of_one_server_compute_at_the_same_time(lab):
    """Two devices on the server's CPU, each with a thread, compute consecutive micro-batches concurrently."""
    server = lab.server('-d', 'CPU', '-d', 'CPU')
    more = ['-b', 64, '-ub', 16]
    same(lab.logits([server], more=more), local_logits(lab, more=more))
    file = lab.folder / 'trace.json'
    lab.run(['llama-bench', '-m', MODEL, '-ngl', 99, '--rpc', server.endpoint, '-p', 1024, '-ub', 32, '-n', 0, '-r', 2],
            env={'GGML_RPC_TRACE': file})
    computed = [(span['ts'], span['ts'] + span['dur'], span['tid'])
                for span in json.loads(file.read_text())['traceEvents'] if span['name'] == 'COMPUTE']
    assert {device for *_, device in computed} == {1, 2}
    for device in (1, 2):
        alone = sorted(span for span in computed if span[2] == device)
        assert all(first[1] <= second[0] for first, second in zip(alone, alone[1:])), 'no overlap on one device'
    overlaps = sum(first[0] < second[1] and second[0] < first[1] for first in computed if first[2] == 1
                   for second in computed if second[2] == 2)
    assert overlaps > 10


@pytest.mark.parametrize('dialect', ['native', 'stock'])
def test_client_disconnects_while_two_devices_compute(lab, dialect):
    server = lab.server('-d', 'CPU', '-d', 'CPU')
    client = lab.endless_completion([server], env={'GGML_RPC_DIALECT': dialect})
    client.kill()
    server.wait_idle()
    same(lab.logits([server]), local_logits(lab))


@pytest.mark.parametrize('side', ['client', 'server'])
def test_stock_dialect_between_caravan_peers(lab, side):
    env = {'GGML_RPC_DIALECT': 'stock'}
    servers = [lab.server(env=env if side == 'server' else None) for _ in range(2)]
    same(lab.logits(servers, env=env if side == 'client' else None), local_logits(lab))
    assert not any(linked(server) for server in servers)


def test_one_native_and_one_stock_server(lab):
    servers = [lab.server(env={'GGML_RPC_DIALECT': 'stock'}), lab.server()]
    same(lab.logits(servers), local_logits(lab))


@pytest.mark.parametrize('op', ['CPY', 'SET_ROWS', 'GET_ROWS', 'CONV_2D', 'OUT_PROD', 'MUL_MAT_ID'])
def test_supported_ops_are_the_devices_own(lab, op):
    """The CPU behind RPC supports exactly the ops that the local CPU supports."""
    server = lab.server()

    def support(backend, env):
        done = lab.run([TEST_BACKEND_OPS, 'support', '-b', backend, '-o', op, '--output', 'csv'], env=env)
        rows = csv.reader(line for line in done.out.splitlines() if line.startswith(f'"{backend}'))
        return [(name, case, is_supported) for _, name, case, _, _, is_supported, *_ in rows]
    ours = support('RPC0', {'GGML_RPC_SERVERS': server.endpoint})
    local = support('CPU', {})
    assert ours and ours == local


def test_trace_escapes_server_names(lab):
    server = lab.server(host=f'unix:{lab.folder}/a"quoted"')
    file = lab.folder / 'trace.json'
    lab.logits([server], chunks=1, env={'GGML_RPC_TRACE': file})
    names = {event['args']['name'] for event in json.loads(file.read_text())['traceEvents'] if event['ph'] == 'M'}
    assert f'server {server.endpoint}' in names, names


def test_trace_shows_client_and_servers_on_one_clock(lab):
    servers = [lab.server() for _ in range(2)]
    file = lab.folder / 'trace.json'
    same(lab.logits(servers, env={'GGML_RPC_TRACE': file}), local_logits(lab))
    events = json.loads(file.read_text())['traceEvents']
    names = {event['pid']: event['args']['name'] for event in events if event['name'] == 'process_name'}
    assert sorted(names.values()) == sorted(['client', *(f'server {server.endpoint}' for server in servers)])
    spans = [event for event in events if event['ph'] == 'X']
    waits = [span for span in spans if span['pid'] == 0 and span['name'] == 'wait']
    for pid, name in names.items():
        theirs = {span['name'] for span in spans if span['pid'] == pid}
        assert theirs >= ({'send', 'wait'} if pid == 0 else {'WRITE', 'GRAPH'}), name
    assert any(span['name'] == 'PUSH' for span in spans) and any(span['name'] == 'TAKE' for span in spans)
    # A server's span lies within the client's longest wait, to a millisecond on the client's clock.
    longest = max(waits, key=lambda span: span['dur'])
    assert any(span['pid'] != 0 and longest['ts'] - 1000 <= span['ts'] and
               span['ts'] + span['dur'] <= longest['ts'] + longest['dur'] + 1000 for span in spans)


def hello(token):
    return struct.pack('<I8sIQ', 0, b'CARAVAN1', 2, token)


def invite_and_link(server, until):
    """The number of links that the server dropped although it had issued their tokens."""
    dropped = 0
    while time.monotonic() < until:
        with stockwire.greet(server, native=True) as owner:
            for _ in range(20):
                owner.sendall(stockwire.command(INVITE))
                token, = struct.unpack('<Q', stockwire.receive_reply(owner)[1])
                with stockwire.connect(server) as link:
                    link.sendall(stockwire.command(14, hello(token)) + stockwire.command(LINK))
                    try:
                        stockwire.receive(link, 36 + 9)
                    except ConnectionError:
                        dropped += 1
    return dropped


def test_tokens_of_links_are_known_when_they_are_issued(lab):
    """The worker that issues one tells the supervisor, which may learn it only after the other server has connected."""
    server = lab.server()
    until = time.monotonic() + 4
    threads = [InBackground(invite_and_link, server, until) for _ in range(6)]
    assert [thread.result() for thread in threads] == [0] * 6


def test_link_without_invitation_is_dropped(lab):
    server = lab.server()
    for token in (1, 2**64 - 1):
        peer = stockwire.connect(server)
        peer.sendall(stockwire.command(14, hello(token)))
        stockwire.receive(peer, 36)
        peer.sendall(stockwire.command(130))
        assert stockwire.is_dropped(peer)
    eventually(lambda: server.log().count('it opens a link to a session of this server with a token that is wrong') == 2, 'it says so')
    same(lab.logits([server]), local_logits(lab))
