"""A long upload of weights over RDMA, complete or interrupted. Nothing may hang.

CARAVAN_UPLOAD_LAYERS=32 makes it 1 GB instead of 200 MB."""
import os
import signal
import subprocess
import sys
import time

import pytest

import conftest
from conftest import PORT, ROOT, Lab, not_emulated

EP = f'10.77.0.1:{PORT}'
BOUND = 20  # seconds from the fault to the end of the client
LAYERS = int(os.environ.get('CARAVAN_UPLOAD_LAYERS', 4))  # 30 MB each
WHOLE = (80 + 30 * LAYERS) * 1_000_000  # approximate size in bytes
PATIENCE = max(60, WHOLE // 10_000_000)  # seconds for the complete upload
pytestmark = not_emulated


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Random weights."""
    file = tmp_path_factory.mktemp('upload') / 'upload.gguf'
    subprocess.run([sys.executable, ROOT / 'tests/models/make_models.py', '--bench', '--out', file, '--layers',
                    str(LAYERS), '--d', '1024', '--heads', '16', '--kv-heads', '8', '--ff', '8192', '--vocab', '32000',
                    '--type', 'q8_0'], check=True, stdout=subprocess.DEVNULL)
    yield file
    file.unlink()


@pytest.fixture
def rig(model):
    """Machines of its own for each test, because these tests break them."""
    config = conftest.lab.Config(memory=1024 + 3 * WHOLE // (1 << 20))
    with conftest.machines(a=config, b=config) as pair:
        os.link(model, pair.shared / 'upload.gguf')
        yield Lab(pair)


def workers_left(rig, count):
    rig.server_machine.run(f'for i in $(seq 300); do [ "$(pgrep -fc [c]aravan-worker)" = {count} ] && exit 0; '
                           'sleep .1; done; pgrep -fa [c]aravan-worker; exit 1', check=True, timeout=60)


def sent(rig):
    return rig.client_machine.counters()['sent_bytes']


def start(rig, **env):
    return rig.client_machine.start(f'exec /usr/bin/llama-bench -m {rig.pair.shared}/upload.gguf -t 1 -ngl 99 -p 0 -n 2 '
                                    f'-r 1 --no-warmup -v --rpc {EP}',
                                    env=rig.environment(GGML_RPC_TIMEOUT_S='10', GGML_RPC_CONNECT_TIMEOUT_S='3',
                                                        **env))


def uploading(rig, **env):
    """A client in the middle of its upload."""
    before, client = sent(rig), start(rig, **env)
    deadline = time.monotonic() + 60
    while sent(rig) < before + 30_000_000:
        assert time.monotonic() < deadline and client.returncode is None, client.output()[-2000:]
    assert sent(rig) < before + WHOLE * 3 // 4, 'too late for a fault during the upload'
    return client


def assert_ends_cleanly(client):
    code = client.wait(BOUND)
    assert code != 0, 'it cannot have succeeded'
    assert code > 0, f'died of signal {-code}: {client.output()[-2000:]}'
    assert f'RPC server {EP} is lost' in client.output()


def test_whole(rig, model):
    """Sessions that may use TCP begin with it, and send the first weights over it."""
    rig.server()
    before = sent(rig)
    client = start(rig, GGML_RPC_TRANSPORT='rdma')
    assert client.wait(PATIENCE) == 0, client.output()[-2000:]
    assert sent(rig) - before > model.stat().st_size * 0.8, client.output()
    workers_left(rig, 1)


@pytest.mark.parametrize('side', ['a', 'b'])
def test_link_down_for_good(rig, side):
    rig.server(options='--session-grace 3')
    client = uploading(rig, GGML_RPC_RECONNECT_S='3')
    getattr(rig.pair, side).link(False)
    assert_ends_cleanly(client)
    if side == 'b':  # the server detects it with a probe and ends the session
        workers_left(rig, 1)


@pytest.mark.parametrize('side', ['a', 'b'])
def test_link_down_for_a_while(rig, side):
    rig.server()
    client = uploading(rig)
    getattr(rig.pair, side).link(False)
    time.sleep(3)
    getattr(rig.pair, side).link(True)
    assert client.wait(PATIENCE) == 0, client.output()[-2000:]
    assert '; reconnected over tcp' in client.output()
    workers_left(rig, 1)


def test_lossy_network(rig):
    """One packet in 500 is lost: the upload only takes longer."""
    rig.server()
    client = uploading(rig)
    rig.client_machine.run('tc qdisc add dev eth0 root netem loss 0.2%', check=True)
    assert client.wait(PATIENCE) == 0, client.output()[-2000:]


def test_client_killed(rig):
    rig.server()
    client = uploading(rig)
    client.kill(signal.SIGKILL)
    client.wait()
    workers_left(rig, 1)
    assert start(rig).wait(PATIENCE) == 0, 'the server does not serve the next client'


def test_client_machine_killed(rig):
    rig.server(options='--session-grace 3')
    uploading(rig)
    rig.client_machine.kill()
    workers_left(rig, 1)


def test_server_killed(rig):
    server = rig.server()
    client = uploading(rig)
    server.kill(signal.SIGKILL)
    assert_ends_cleanly(client)
