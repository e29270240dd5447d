"""Links and peers that go away in the middle. Nothing may hang, and no program may die of a signal."""
import signal
import time

import pytest

import conftest
from conftest import PORT, Lab, is_slow, not_emulated

EP = f'10.77.0.1:{PORT}'
LONG = (f'/usr/bin/llama-bench -m {conftest.MODEL} -t 1 -ngl 99 -p 0 -n 4096 -r 100 --no-warmup -v --rpc {EP}')
BOUND = 20  # seconds from the fault to the end of the client


@pytest.fixture
def rig():
    """Machines of one's own: these tests break them."""
    with conftest.machines() as pair:
        yield Lab(pair)


def generating(rig):
    """A client in mid-generation over RDMA."""
    before = rig.client_machine.counters()['rdma_sends']
    client = rig.client_machine.start(LONG, env=rig.environment(GGML_RPC_TIMEOUT_S='10'))
    deadline = time.monotonic() + 60
    while rig.client_machine.counters()['rdma_sends'] < before + 300:
        assert time.monotonic() < deadline and client.returncode is None, client.output()
        time.sleep(0.1)
    return client


def ends_well(client):
    code = client.wait(BOUND)
    assert code != 0, 'it cannot have succeeded'
    assert code > 0, f'died of signal {-code}: {client.output()[-2000:]}'
    assert f'RPC server {EP} is lost' in client.output()


def test_silence_is_no_fault(rig):
    """Longer than the time after which the server asks whether the client is still there, and for its answer."""
    rig.server()
    client = generating(rig)
    client.kill(signal.SIGSTOP)
    time.sleep(7)
    before = rig.client_machine.counters()['rdma_sends']
    client.kill(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while rig.client_machine.counters()['rdma_sends'] < before + 300:
        assert time.monotonic() < deadline and client.returncode is None, client.output()[-2000:] + rig.log()
        time.sleep(0.1)
    client.kill(signal.SIGKILL)
    client.wait()


@pytest.mark.parametrize('interface', [False] if is_slow() else [False, True],
                         ids=lambda interface: 'interface' if interface else 'cable')
@pytest.mark.parametrize('side', ['a'] if is_slow() else ['a', 'b'])
def test_link_down(rig, side, interface):
    rig.server()
    client = generating(rig)
    getattr(rig.pair, side).link(False, interface=interface)
    ends_well(client)


def test_server_killed(rig):
    server = rig.server()
    client = generating(rig)
    server.kill(signal.SIGKILL)
    ends_well(client)


@not_emulated
def test_server_machine_killed(rig):
    rig.server()
    client = generating(rig)
    rig.server_machine.kill()
    ends_well(client)


@not_emulated
def test_client_killed(rig):
    rig.server()
    client = generating(rig)
    client.kill(signal.SIGKILL)
    client.wait()
    rig.server_machine.run('for i in $(seq 30); do [ "$(pgrep -fc [w]orker-control)" = 1 ] && exit 0; sleep .1; done; exit 1',
                           check=True)
    logits, output = rig.logits(EP)
    assert 'transport rdma' in output


@not_emulated
def test_client_machine_killed(rig):
    """The server hears nothing of it, and finds out by asking."""
    rig.server()
    generating(rig)
    rig.client_machine.kill()
    rig.server_machine.run('for i in $(seq 300); do [ "$(pgrep -fc [w]orker-control)" = 1 ] && exit 0; sleep .1; done; exit 1',
                           check=True, timeout=40)
