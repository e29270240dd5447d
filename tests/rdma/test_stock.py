"""RDMA with stock peers, in both roles. The stock programs of the distribution have no RDMA: rdma-stock-peer, which knows only
docs/protocol.md, carries their streams as a stock peer with RDMA does, and ends if a message does not fit its field."""
import contextlib

import pytest

import conftest
import lab
from conftest import BIN, PORT, Lab, not_emulated

PEER = BIN / 'rdma-stock-peer'
STOCK_SERVER = '/usr/libexec/x86_64-linux-gnu/llama/bin/ggml-rpc-server'
SERVER = '10.77.0.1'
EP = f'{SERVER}:{PORT}'
BEHIND = PORT + 1  # of the stock program on the same machine as rdma-stock-peer

pytestmark = [not_emulated, pytest.mark.skipif(not PEER.exists(), reason='no libibverbs to link with')]


@contextlib.contextmanager
def running(machine, command, ready):
    process = machine.start(f'exec {command}')
    try:
        ready(process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def listens(machine, port):
    return lambda process: machine.run(
        f'for i in $(seq 100); do ss -ltn | grep -q :{port} && exit 0; sleep .1; done; exit 1', check=True)


@contextlib.contextmanager
def stock_server(rig, fault=''):
    machine = rig.server_machine
    with running(machine, f'{STOCK_SERVER} -H 127.0.0.1 -p {BEHIND} -t 1', listens(machine, BEHIND)), \
         running(machine, f'{PEER} server {PORT} 127.0.0.1 {BEHIND} rxe0 1 {fault}',
                 lambda process: process.wait_for('ready')) as peer:
        yield peer


@contextlib.contextmanager
def stock_client(rig, fault=''):
    """Yields rdma-stock-peer and a function that runs the stock client through it."""
    machine = rig.client_machine
    with running(machine, f'{PEER} client {BEHIND} {SERVER} {PORT} rxe0 1 {fault}',
                 lambda process: process.wait_for('ready')) as peer:
        file = rig.pair.shared / 'stock-logits'
        file.unlink(missing_ok=True)

        def run(timeout=60):
            code, output = machine.run(f'{conftest.PERPLEXITY} -ngl 99 --rpc 127.0.0.1:{BEHIND} --save-all-logits {file}',
                                       timeout=timeout)
            assert 'libggml-rpc-caravan' not in output
            return code, file.read_bytes() if file.exists() else b'', output
        yield peer, run


def test_stock_client(rig: Lab, local):
    rig.server()
    with stock_client(rig) as (peer, run):
        code, logits, output = run()
        peer.wait_for('closed')
    assert code == 0, output + peer.output()
    assert logits == local
    assert 'stock peer: rdma' in peer.output() and 'stock peer: tcp' not in peer.output()
    assert '(stock peer)' in rig.log() and 'RDMA not activated' not in rig.log()


def test_stock_server(rig, local):
    with stock_server(rig) as peer:
        logits, output = rig.logits(EP)
        peer.wait_for('closed, rdma messages sent')
    assert logits == local, peer.output()
    assert f'RPC server {EP}: transport rdma' in output
    assert 'stock peer: rdma' in peer.output()


def test_stock_server_that_stays_on_tcp(rig, local):
    """It has announced a queue pair and could not use the client's: the client notices, and the session uses TCP."""
    with stock_server(rig, 'tcp') as peer:
        logits, output = rig.logits(EP)
    assert logits == local
    assert 'transport tcp (no message gets through over RDMA' in output
    assert 'stock peer: rdma' not in peer.output()


def test_stock_client_that_stays_on_tcp(rig, local):
    rig.server()
    with stock_client(rig, 'tcp') as (peer, run):
        code, logits, output = run()
    assert code == 0, output + rig.log()
    assert logits == local
    assert "RDMA not activated: the client cannot use the server's queue pair; the session continues over TCP" in rig.log()


def test_stock_client_and_a_server_without_rdma(rig, local):
    rig.server(env={'GGML_RPC_TRANSPORT': 'tcp'})
    with stock_client(rig) as (peer, run):
        code, logits, output = run()
    assert code == 0 and logits == local, output
    assert 'stock peer: tcp' in peer.output()


@pytest.mark.parametrize('mode, kind', [('tcp', 'tcp'), ('rdma', 'rdma')])
def test_required_transport_with_a_stock_server(rig, local, mode, kind):
    with stock_server(rig) as peer:
        logits, output = rig.logits(EP, env={'GGML_RPC_TRANSPORT': mode})
    assert logits == local
    assert f'transport {kind}' in output
    assert ('stock peer: rdma' in peer.output()) == (kind == 'rdma')


def test_stock_client_and_a_server_without_a_device(local):
    with conftest.machines(a=lab.Config(rdma=False)) as pair:
        rig = Lab(pair)
        rig.server()
        with stock_client(rig) as (peer, run):
            code, logits, output = run()
        assert code == 0 and logits == local, output
        assert 'stock peer: tcp' in peer.output()
        assert 'RDMA not activated: no RDMA device' in rig.log()


def test_stock_server_with_another_mtu(local):
    """Stock peers do not tell their MTU, and messages longer than the smaller one do not arrive."""
    with conftest.machines(a=lab.Config(mtu=1500)) as pair:
        rig = Lab(pair)
        with stock_server(rig) as peer:
            logits, output = rig.logits(EP)
        assert logits == local
        assert 'stock peer: rdma' in peer.output()
        assert 'transport tcp (no message gets through over RDMA' in output


def test_empty_message(rig, local):
    server = rig.server()
    with stock_client(rig, 'empty') as (peer, run):
        code, logits, output = run()
        assert code != 0
        server.wait_for('the peer sent a malformed RDMA message', 20)
    with stock_client(rig) as (peer, run):
        assert run()[1] == local


def test_killed_stock_client(rig, local):
    server = rig.server()
    with stock_client(rig) as (peer, run):
        client = rig.client_machine.start(f'{conftest.PERPLEXITY} -ngl 99 --rpc 127.0.0.1:{BEHIND}')
        server.wait_for('(stock peer)')
        peer.kill()
        client.kill()
        client.wait()
    server.wait_for('the client left', 20)
    with stock_client(rig) as (peer, run):
        assert run()[1] == local
