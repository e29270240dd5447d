"""Network links and peers that fail in the middle of work. Nothing may hang, and no program may die of a signal."""
import re
import signal
import time

import pytest

import conftest
from conftest import PERPLEXITY, PORT, Lab, is_slow, not_emulated

EP = f'10.77.0.1:{PORT}'
LONG = (f'/usr/bin/llama-bench -m {conftest.MODEL} -t 1 -ngl 99 -p 0 -n 4096 -r 100 --no-warmup -v --rpc {EP}')
BOUND = 20  # seconds from the fault to the end of the client


@pytest.fixture
def rig():
    """Machines of its own for each test, because these tests break them."""
    with conftest.machines() as pair:
        yield Lab(pair)


def generating(rig, **env):
    """A client in mid-generation over RDMA."""
    before = rig.client_machine.counters()['rdma_sends']
    client = rig.client_machine.start(LONG, env=rig.environment(GGML_RPC_TIMEOUT_S='10', **env))
    deadline = time.monotonic() + 60
    while rig.client_machine.counters()['rdma_sends'] < before + 300:
        assert time.monotonic() < deadline and client.returncode is None, client.output()
        time.sleep(0.1)
    return client


def assert_ends_cleanly(client):
    code = client.wait(BOUND)
    assert code != 0, 'it cannot have succeeded'
    assert code > 0, f'died of signal {-code}: {client.output()[-2000:]}'
    assert f'RPC server {EP} is lost' in client.output()


def test_silence_is_not_a_fault(rig):
    """A silence longer than the server's delay before a probe and its time-out for the reply."""
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
def test_link_down_for_good(rig, side, interface):
    rig.server()
    client = generating(rig, GGML_RPC_RECONNECT_S='3')
    getattr(rig.pair, side).link(False, interface=interface)
    assert_ends_cleanly(client)


LONG_LOGITS = PERPLEXITY.replace('--chunks 2', '--chunks 24')


def computing(rig):
    """A client that is computing logits over RDMA, and the file that it writes."""
    file = rig.pair.shared / 'logits'
    before = rig.client_machine.counters()['rdma_sends']
    client = rig.client_machine.start(f'{LONG_LOGITS} -b 8 -ub 8 -ngl 99 --rpc {EP} --save-all-logits {file}',
                                      env=rig.environment())
    deadline = time.monotonic() + 60
    while rig.client_machine.counters()['rdma_sends'] < before + 100:
        assert time.monotonic() < deadline and client.returncode is None, client.output()
    return client, file


def assert_continues(rig, client, file):
    """The client continues over TCP, with the same result as without a server."""
    local = rig.pair.shared / 'local'
    assert client.wait(90) == 0, client.output()[-2000:] + rig.log()
    rig.client_machine.run(f'{LONG_LOGITS} -b 8 -ub 8 --device none --save-all-logits {local}', timeout=120, check=True,
                           env=rig.environment())
    assert file.read_bytes() == local.read_bytes(), 'logits differ: ' + client.output()[-3000:] + rig.log()
    assert re.search(r'connection to RPC server .* lost \(.+\); reconnected over tcp', client.output())
    assert 'Connected again: 10.77.0.2' in rig.log()


@pytest.mark.extra
@not_emulated
@pytest.mark.parametrize('interface', [False, True], ids=lambda interface: 'interface' if interface else 'cable')
def test_continues_after_10_s_without_the_servers_link(rig, interface):
    rig.server()
    client, file = computing(rig)
    rig.server_machine.link(False, interface=interface)
    time.sleep(10)
    assert client.returncode is None
    rig.server_machine.link(True, interface=interface)
    assert_continues(rig, client, file)


@not_emulated
@pytest.mark.parametrize('side', ['a', 'b'])
def test_continues_without_the_rdma_device(rig, side):
    """The device is removed with all its queue pairs; TCP works."""
    rig.server()
    client, file = computing(rig)
    getattr(rig.pair, side).run('rdma link delete rxe0', check=True)
    assert_continues(rig, client, file)


def completion(rpc, tokens=8000):
    return (f'/usr/bin/llama-completion -m {conftest.MODEL} -p Then -n {tokens} --temp 0 --ignore-eos -no-cnv -c 8192 -t 1 '
            f'--no-warmup -lv 4 ' + (f'-ngl 99 --rpc {rpc}' if rpc else '--device none'))


def sends_soon(rig, client, seconds=40):
    """Waits until the client machine sends over RDMA."""
    before, deadline = rig.client_machine.counters()['rdma_sends'], time.monotonic() + seconds
    while rig.client_machine.counters()['rdma_sends'] < before + 100:
        assert time.monotonic() < deadline and client.returncode is None, client.output()[-3000:] + rig.log()
        time.sleep(0.1)


def writing(rig, rpc=EP):
    """A client that is writing a long text over RDMA, and the file with the text."""
    file = rig.pair.shared / 'text'
    client = rig.client_machine.start(f'exec {completion(rpc)} 2>&1 >{file}', env=rig.environment())
    sends_soon(rig, client)
    return client, file


def assert_text(rig, client, file):
    """The text so far is that of a run without a server."""
    deadline = time.monotonic() + 40
    while file.stat().st_size <= 200 and time.monotonic() < deadline:  # the fault may have come while the model loaded
        time.sleep(0.1)
    assert client.returncode is None, client.output()[-3000:] + rig.log()
    client.kill(signal.SIGKILL)
    client.wait()
    text, local = file.read_bytes(), rig.pair.shared / 'local'
    rig.client_machine.run(f'{completion("", len(text))} >{local}', timeout=120, check=True, env=rig.environment())
    assert len(text) > 100 and local.read_bytes().startswith(text), client.output()[-3000:] + rig.log()


# Retransmissions of the adapter bridge the shorter ones.
CUTS = [0.3, 0.8, 3, pytest.param(15, marks=pytest.mark.extra)]


@not_emulated
@pytest.mark.parametrize('cut', CUTS)
@pytest.mark.parametrize('side', ['a', 'b'])
def test_returns_to_rdma_while_generating(rig, side, cut):
    rig.server()
    client, file = writing(rig)
    getattr(rig.pair, side).link(False)
    time.sleep(cut)
    getattr(rig.pair, side).link(True)
    if cut < 3:
        sends_soon(rig, client)  # on a busy machine the cut may last longer, and the session is lost and returns
    else:
        client.wait_for('uses RDMA again', 40)
        sends_soon(rig, client)
        assert re.search(r'connection to RPC server .* lost \(.+\); reconnected over tcp', client.output())
        assert re.search('connection to .* uses RDMA again, after [0-9.]+ s', rig.log())
    assert_text(rig, client, file)


@not_emulated
@pytest.mark.parametrize('side', ['a', 'b'])
def test_returns_to_a_device_that_was_removed(rig, side):
    rig.server()
    machine = getattr(rig.pair, side)
    client, file = writing(rig)
    machine.run('rdma link delete rxe0', check=True)
    client.wait_for('reconnected over tcp', 10)  # at once, because the device reports it
    machine.run('rdma link add rxe0 type rxe netdev eth0', check=True)
    client.wait_for('uses RDMA again', 40)
    sends_soon(rig, client)
    assert_text(rig, client, file)


ONLY_RDMA = {'GGML_RPC_TRANSPORT': 'rdma'}


@not_emulated
def test_resumes_over_rdma_where_the_server_accepts_only_that(rig):
    rig.server(env=ONLY_RDMA)
    client, file = writing(rig)
    rig.client_machine.run('rdma link delete rxe0', check=True)
    time.sleep(1.5)
    rig.client_machine.run('rdma link add rxe0 type rxe netdev eth0', check=True)
    client.wait_for('reconnected over rdma', 20)
    sends_soon(rig, client)
    assert_text(rig, client, file)


@not_emulated
def test_reports_that_the_server_accepts_only_rdma_when_it_cannot_resume(rig):
    rig.server(env=ONLY_RDMA)
    client = generating(rig, GGML_RPC_RECONNECT_S='3')
    rig.client_machine.run('rdma link delete rxe0', check=True)
    assert_ends_cleanly(client)
    assert ('reconnecting failed for 3 s: the server accepts only RDMA (GGML_RPC_TRANSPORT=rdma there), which is not '
            'available: no RDMA device') in client.output()


COMPLETE = (r"""python3 -c 'import json, urllib.request as u; print(json.load(u.urlopen(u.Request("http://127.0.0.1:8080/completion", """
            r"""json.dumps(dict(prompt="In the beginning", n_predict=40, temperature=0, cache_prompt=False)).encode()), """
            r"""timeout=60))["content"])'""")


@not_emulated
@pytest.mark.parametrize('cut', CUTS)
def test_returns_to_rdma_while_idle(rig, cut):
    rig.server()
    client = rig.client_machine.start(
        f'/usr/bin/llama-server -m {conftest.MODEL} --host 127.0.0.1 --port 8080 -c 512 -t 1 -np 1 --no-webui -ngl 99 '
        f'--rpc {EP} -lv 4', env=rig.environment())
    client.wait_for('all slots are idle', 60)
    before = rig.client_machine.run(COMPLETE, check=True, timeout=60)[1]
    rig.server_machine.link(False)
    time.sleep(cut)
    rig.server_machine.link(True)
    if cut >= 3:
        client.wait_for('uses RDMA again', 40)
    sends = rig.client_machine.counters()['rdma_sends']
    assert rig.client_machine.run(COMPLETE, check=True, timeout=60)[1] == before
    assert rig.client_machine.counters()['rdma_sends'] > sends + 40
    client.kill(signal.SIGKILL)
    client.wait()


@not_emulated
def test_a_link_between_servers_returns_to_rdma(rig):
    """One server on each machine."""
    server = rig.server()
    other = rig.client_machine.start(f'exec {conftest.BIN}/rpc-server -H 10.77.0.2 -p {PORT} -t 1')
    other.wait_for('sessions ')
    client, file = writing(rig, rpc=f'{EP},10.77.0.2:{PORT}')
    server.wait_for('linked with the server at 10.77.0.2')
    sends_soon(rig, client)
    rig.server_machine.link(False)
    time.sleep(5)
    rig.server_machine.link(True)
    client.wait_for('uses RDMA again', 40)
    deadline = time.monotonic() + 40
    while not re.search('connection to RPC server .* uses RDMA again', rig.log() + other.output()):
        assert time.monotonic() < deadline, rig.log() + other.output() + client.output()[-3000:]
        time.sleep(0.2)
    assert_text(rig, client, file)


@not_emulated
def test_clocks_that_jump(rig):
    """Both machines' clocks jump a day ahead and two days back: no wait becomes shorter or longer."""
    rig.server()
    client, file = computing(rig)
    begin = time.monotonic()
    for days in ('1 day', '-2 days'):
        for machine in rig.server_machine, rig.client_machine:
            machine.run(f"date -s '{days}'", check=True)
    assert client.wait(90) == 0, client.output()[-2000:] + rig.log()
    assert time.monotonic() - begin < 60
    assert not re.search(r'connection to .* lost', client.output() + rig.log())
    local = rig.pair.shared / 'local'
    rig.client_machine.run(f'{LONG_LOGITS} -b 8 -ub 8 --device none --save-all-logits {local}', timeout=120, check=True,
                           env=rig.environment())
    assert file.read_bytes() == local.read_bytes()


def test_server_killed(rig):
    server = rig.server()
    client = generating(rig)
    server.kill(signal.SIGKILL)
    assert_ends_cleanly(client)


@not_emulated
def test_server_machine_killed(rig):
    rig.server()
    client = generating(rig)
    rig.server_machine.kill()
    assert_ends_cleanly(client)


@not_emulated
def test_client_killed(rig):
    rig.server()
    client = generating(rig)
    client.kill(signal.SIGKILL)
    client.wait()
    rig.server_machine.run('for i in $(seq 30); do [ "$(pgrep -fc [c]aravan-worker)" = 1 ] && exit 0; sleep .1; done; exit 1',
                           check=True)
    logits, output = rig.logits(EP)
    assert 'transport rdma' in output


@not_emulated
def test_client_machine_killed(rig):
    """The server hears nothing of it, and finds out by asking."""
    rig.server(options='--session-grace 3')
    generating(rig)
    rig.client_machine.kill()
    rig.server_machine.run('for i in $(seq 300); do [ "$(pgrep -fc [c]aravan-worker)" = 1 ] && exit 0; sleep .1; done; exit 1',
                           check=True, timeout=40)
