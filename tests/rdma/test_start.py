"""How long RDMA delays the start of a program: where the network loses its packets, and where it works."""
import re
import statistics
import time

import pytest

import conftest
import lab
from conftest import PORT, Lab, not_emulated

pytestmark = not_emulated

BOUND = 1.5  # seconds, for the first session with each server
NEAR = [f'10.77.0.1:{PORT}', f'10.77.0.1:{PORT + 1}']  # in one machine: their link uses RDMA within it
FAR = [f'10.77.0.1:{PORT}', f'10.77.0.2:{PORT}']       # their link needs the network
LAYOUTS = pytest.mark.parametrize('endpoints', [NEAR[:1], NEAR, FAR], ids=['one server', 'two in one machine', 'two machines'])


@pytest.fixture(scope='module')
def lossy():
    """Machines between which RDMA connects, and loses its packets: Soft-RoCE behind a bridge."""
    with conftest.machines(a=lab.Config(bridge=True)) as pair:
        yield pair


@pytest.fixture
def lossy_rig(lossy):
    made = Lab(lossy)
    yield made
    made.stop_servers()


def serve(rig, endpoints):
    for endpoint in endpoints:
        host, port = endpoint.split(':')
        if host == '10.77.0.1':
            rig.server(port=int(port))
        else:
            rig.server_in_client_machine(port=int(port))


def start(rig, endpoints, transport='auto'):
    """The seconds from a program's start to its first token, those to its end, and its output."""
    began = time.monotonic()
    code, output = rig.client_machine.run(
        f'/usr/bin/llama-completion -m {conftest.MODEL} -p Then -n 1 -no-cnv -c 256 -t 1 --no-warmup -lv 4 -ngl 99 '
        f'--rpc {",".join(endpoints)}', env=rig.environment(GGML_RPC_TRANSPORT=transport, GGML_RPC_DEBUG='1'))
    whole = time.monotonic() - began
    assert code == 0, output
    minutes, seconds, ms = map(int, re.search(r'(\d+)\.(\d+)\.(\d+)\.\d+ I common_perf_print', output).groups())
    return minutes * 60 + seconds + ms / 1000, whole, output


def compare(rig, endpoints):
    """Prints the medians of three starts over TCP and with RDMA, interleaved. Returns the differences: until the first token,
    until the end."""
    start(rig, endpoints, 'tcp')
    times = {'tcp': [], 'auto': []}
    for _ in range(3):
        for transport, measured in times.items():
            measured.append(start(rig, endpoints, transport)[:2])
    (tcp_token, tcp), (token, whole) = ([statistics.median(column) for column in zip(*measured)] for measured in times.values())
    print(f'{endpoints}: first token after {tcp_token:.2f} s over TCP, {token - tcp_token:+.2f} s with RDMA; '
          f'whole program {tcp:.2f} s, {whole - tcp:+.2f} s')
    return token - tcp_token, whole - tcp


@LAYOUTS
def test_start_where_rdma_loses_its_packets(lossy_rig, endpoints):
    serve(lossy_rig, endpoints)
    delays = compare(lossy_rig, endpoints)
    assert 'RDMA not activated' in lossy_rig.log()
    assert max(delays) < BOUND


@LAYOUTS
def test_only_sessions_that_carry_data_use_rdma(rig, endpoints):
    """To fit a model, programs first ask about memory only."""
    serve(rig, endpoints)
    compare(rig, endpoints)
    before = rig.log().count('RDMA activated')
    _, _, output = start(rig, endpoints)
    sessions = len(endpoints)
    assert output.count('connected over tcp for a session') == sessions, output
    assert output.count(': transport rdma') == sessions, output
    links = 2 * (sessions - 1)  # two ends
    assert rig.log().count('RDMA activated') == before + sessions + links
