"""Which transport a session gets, and whether the log has the reason."""
import re
import subprocess

import pytest

import conftest
import lab
from conftest import PORT, TCP_BIN, Lab, is_slow, not_emulated

EP = f'10.77.0.1:{PORT}'
STOCK = '/usr/libexec/x86_64-linux-gnu/llama/bin/ggml-rpc-server'
needs_tcp_build = pytest.mark.skipif(not TCP_BIN, reason='no build without RDMA')


def test_rdma_is_the_default(rig, local):
    rig.server()
    before = rig.client_machine.counters()
    logits, output = rig.logits(EP)
    after = rig.client_machine.counters()
    assert logits == local
    assert f'RPC server {EP}: transport rdma' in output
    assert re.search(r'RDMA probed: dev=rxe0 gid=1 qpn=\d+ inline=\d+', rig.log())
    assert re.search(r'RDMA activated: qpn=\d+->\d+ mtu=4096 rx_depth=24', rig.log())
    assert re.search(r'confinement    : no_new_privs, no ptrace, capabilities: '
                     r'[^;]+(, seccomp, Landlock|; no seccomp: .+; no Landlock: )', rig.log())
    assert after['sent_bytes'] > before['sent_bytes']


def test_required_rdma_carries_all_data(rig, local):
    rig.server()
    before = rig.client_machine.counters()
    logits, output = rig.logits(EP, env={'GGML_RPC_TRANSPORT': 'rdma'})
    after = rig.client_machine.counters()
    assert logits == local
    weights = conftest.MODEL.stat().st_size * 0.9
    assert after['sent_bytes'] - before['sent_bytes'] > weights, output


def test_ipv6(rig, local):
    rig.server(host='::')
    logits, output = rig.logits(f'[fd77::1]:{PORT}')
    assert logits == local
    assert 'transport rdma' in output
    assert 'gid=2' in rig.log()


@not_emulated
def test_address_on_a_bridge_with_a_forced_gid(rig, local):
    """The server's address is on a bridge without an RDMA device: only the user knows which GID reaches it."""
    bridged = f'10.99.0.1:{PORT}'
    rig.server_machine.run('ip link add br1 type bridge && ip address add 10.99.0.1/24 dev br1 && ip link set br1 up',
                           check=True)
    rig.client_machine.run('ip route add 10.99.0.1 via 10.77.0.1', check=True)
    try:
        rig.server()
        logits, output = rig.logits(bridged)
        assert logits == local
        assert re.search(r'transport tcp \(server: no GID for 10\.99\.0\.1 on rxe0: found .*10\.77\.0\.1', output)
        rig.stop_servers()
        rig.server(env={'GGML_RDMA_DEV': 'rxe0', 'GGML_RDMA_GID': '1'})
        logits, output = rig.logits(bridged)
        assert logits == local
        assert f'RPC server {bridged}: transport rdma' in output
        assert 'RDMA activated' in rig.log()
    finally:
        rig.server_machine.run('ip link delete br1')
        rig.client_machine.run('ip route delete 10.99.0.1')


@not_emulated
def test_device_that_is_a_port_of_a_bridge(local):
    """Soft-RoCE lists the bridge's GIDs and connects, but the bridge drops its packets: the session falls back to TCP."""
    with conftest.machines(a=lab.Config(bridge=True)) as pair:
        rig = Lab(pair)
        rig.server()
        logits, output = rig.logits(EP)
        assert logits == local
        assert 'transport tcp (no message gets through over RDMA' in output


@not_emulated
def test_three_clients_at_once(rig, local):
    rig.server()
    files = [rig.pair.shared / f'three-{i}' for i in range(3)]
    clients = [rig.client_machine.start(f'{conftest.PERPLEXITY} -ngl 99 --rpc {EP} --save-all-logits {file}',
                                        env=rig.environment()) for file in files]
    for client, file in zip(clients, files):
        assert client.wait(90) == 0, client.output()
        assert file.read_bytes() == local
    assert rig.log().count('RDMA activated') >= 3


def test_servers_are_linked_over_rdma(rig, local):
    """Both servers are in one machine: Soft-RoCE supports loopback."""
    rig.server()
    rig.server(port=PORT + 1)
    logits, output = rig.logits(f'{EP},10.77.0.1:{PORT + 1}')
    assert logits == local
    assert f'RPC server {EP} sends directly to 10.77.0.1:{PORT + 1} over ' in output
    assert rig.log().count('RDMA activated') == 4  # two sessions, two ends of the link


FALLBACKS = [
    ({'GGML_RPC_TRANSPORT': 'tcp'}, {}, ''),
    ({}, {'GGML_RPC_TRANSPORT': 'tcp'}, 'the server has no RDMA'),
    ({'GGML_RDMA_DEV': 'mlx5_7'}, {}, 'GGML_RDMA_DEV=mlx5_7 is not among the RDMA devices: rxe0'),
    ({'GGML_RDMA_GID': '77'}, {}, 'GGML_RDMA_GID=77 is not in the GID table of rxe0'),
    ({'GGML_RDMA_PORT': '9'}, {}, 'GGML_RDMA_PORT=9 does not exist'),
    ({}, {'GGML_RDMA_DEV': 'mlx5_7'}, 'server: GGML_RDMA_DEV=mlx5_7'),
    # The client's link-local GID does not reach the server's IPv4 GID.
    ({'GGML_RDMA_GID': '0'}, {}, 'GGML_RDMA_GID=0 of this machine selects fe80::'),
]


@pytest.mark.parametrize('client, server, reason', FALLBACKS[-1:] if is_slow() else FALLBACKS)
def test_falls_back_and_logs_the_reason(rig, local, client, server, reason):
    rig.server(env=server)
    logits, output = rig.logits(EP, env=client)
    assert logits == local
    assert re.search('transport tcp' + (rf' \(.*{re.escape(reason)}' if reason else ''), output), output


@not_emulated
def test_required_rdma_that_is_unavailable_is_an_error(rig):
    rig.server(env={'GGML_RPC_TRANSPORT': 'tcp'})
    code, output = rig.client_machine.run(f'{conftest.PERPLEXITY} -ngl 99 --rpc {EP}', timeout=60,
                                          env=rig.environment(GGML_RPC_TRANSPORT='rdma'))
    assert code > 0
    assert 'GGML_RPC_TRANSPORT=rdma, but RDMA is not available: the server has no RDMA' in output


def test_memlock_too_low(rig, local):
    rig.server()
    logits, output = rig.logits(EP, user=1000, memlock=64 * 1024, env={'HOME': '/tmp'})
    assert logits == local
    assert 'memlock limit 64 KiB is too low' in output


@not_emulated
@pytest.mark.parametrize('hide, show, reason', [
    ('chmod 600 /dev/infiniband/uverbs0', 'chmod 666 /dev/infiniband/uverbs0', 'no access to /dev/infiniband/uverbs0'),
    ('mv /dev/infiniband /dev/hidden', 'mv /dev/hidden /dev/infiniband', 'its file in /dev/infiniband is missing'),
], ids=['unreadable', 'missing'])
def test_device_that_the_user_may_not_open(rig, local, hide, show, reason):
    """As in a container without the device, or for a user without access."""
    rig.server()
    rig.client_machine.run(hide, check=True)
    try:
        logits, output = rig.logits(EP, user=1000, env={'HOME': '/tmp'})
    finally:
        rig.client_machine.run(show, check=True)
    assert logits == local
    assert f'transport tcp (cannot open RDMA device rxe0: {reason})' in output, re.findall('transport .*', output)


@needs_tcp_build
def test_client_built_without_rdma(rig, local):
    rig.server()
    logits, output = rig.logits(EP, binary=TCP_BIN)
    assert logits == local
    assert 'RDMA probed' not in rig.log()


@needs_tcp_build
def test_server_built_without_rdma(rig, local):
    rig.server(binary=TCP_BIN)
    logits, output = rig.logits(EP)
    assert logits == local
    assert 'transport tcp (the server has no RDMA' in output


@needs_tcp_build
def test_a_build_without_rdma_contains_no_rdma_code():
    for name in ('rpc-server', 'libggml-rpc-caravan.so'):
        linked = subprocess.run(['ldd', f'{TCP_BIN}/{name}'], capture_output=True, text=True, check=True).stdout
        symbols = subprocess.run(['nm', '-C', f'{TCP_BIN}/{name}'], capture_output=True, text=True, check=True).stdout
        assert 'ibverbs' not in linked and 'ibv_' not in symbols


def test_stock_server(rig, local):
    process = rig.server_machine.start(f'exec {STOCK} -H 0.0.0.0 -p {PORT} -t 1')
    try:
        rig.server_machine.run(f'for i in $(seq 100); do ss -ltn | grep -q :{PORT} && exit 0; sleep .1; done; exit 1',
                               check=True)
        logits, output = rig.logits(EP)
    finally:
        process.kill()
        process.wait()
    assert logits == local
    assert 'transport tcp (the server is a stock one' in output


@not_emulated
def test_stock_client(rig, local):
    rig.server()
    code, output = rig.client_machine.run(f'{conftest.PERPLEXITY} -ngl 99 --rpc {EP} --save-all-logits '
                                          f'{rig.pair.shared}/stock', timeout=60)
    assert code == 0, output
    assert (rig.pair.shared / 'stock').read_bytes() == local
    assert 'RDMA probed' not in rig.log()


@not_emulated
def test_the_smaller_mtu_and_the_matching_device_are_used(local):
    """a: MTU 1024; b: 4096, and a second device, listed first, whose GIDs match nothing."""
    with conftest.machines(a=lab.Config(mtu=1500), b=lab.Config(spare=True)) as pair:
        rig = Lab(pair)
        rig.server()
        logits, output = rig.logits(EP)
        assert logits == local
        assert 'transport rdma' in output
        assert 'mtu=1024' in rig.log()


@not_emulated
def test_no_device(local):
    with conftest.machines(a=lab.Config(rdma=False)) as pair:
        rig = Lab(pair)
        rig.server()
        logits, output = rig.logits(EP)
        assert logits == local
        assert 'server: no RDMA device' in output
