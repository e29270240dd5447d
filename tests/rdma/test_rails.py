"""Sessions over several queue pairs: how many there are, what they carry, and what happens when one fails."""
import json
import re
import time

import pytest

import conftest
import lab
from conftest import BIN, MODEL, PERPLEXITY, PORT, ROOT, Lab, not_emulated
from lab.machine import SECOND
from test_faults import assert_text, sends_soon, writing

EP = f'10.77.0.1:{PORT}'
DEVICES = ('rxe0', SECOND)
OFFERS = f'python3 {ROOT}/tests/rdma/offers.py 10.77.0.1 {PORT} 10.77.0.2'
TWO = {'GGML_RDMA_RAILS': '2'}
pytestmark = not_emulated


def two_cables(a=True, b=True):
    try:
        return conftest.machines(a=lab.Config(second=a), b=lab.Config(second=b))
    except lab.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope='module')
def two():
    with two_cables() as pair:
        yield pair


@pytest.fixture
def wide(two):
    """Two devices in each machine."""
    made = Lab(two)
    yield made
    made.stop_servers()


@pytest.fixture
def fragile():
    """The same, in machines of its own, because the test breaks them."""
    with two_cables() as pair:
        yield Lab(pair)


def activated(rig):
    return re.findall(r'RDMA activated: qpn=\d+->\d+ mtu=\d+ rx_depth=24', rig.log())


def bytes_sent(machine):
    return [machine.counters(device)['sent_bytes'] for device in DEVICES]


def test_reports_have_the_number_of_queue_pairs(wide):
    wide.server()
    _, page = wide.client_machine.run(f'{BIN}/rpc-doctor {EP}', timeout=60)
    assert re.search(r'\n  queue pairs +2\n', page), page
    stats = wide.pair.shared / 'stats'
    wide.logits(EP, env={'GGML_RPC_TRANSPORT': 'rdma', 'GGML_RPC_STATS': str(stats)})
    assert [session['queue_pairs'] for session in map(json.loads, stats.read_text().splitlines())] == [2]


def test_two_devices_share_the_weights(wide, local):
    wide.server()
    before = bytes_sent(wide.client_machine)
    # Otherwise, on a busy machine, the weights may not wait for RDMA.
    assert wide.logits(EP, env={'GGML_RPC_TRANSPORT': 'rdma'})[0] == local
    sent = [b - a for a, b in zip(before, bytes_sent(wide.client_machine))]
    assert 2 <= len(activated(wide)) == wide.log().count('RDMA probed')
    assert f'RDMA probed: dev={SECOND}' in wide.log()
    assert min(sent) > 0.25 * sum(sent), sent
    assert sum(sent) > 0.9 * MODEL.stat().st_size


def test_the_other_device_may_be_the_first(wide, local):
    wide.server()
    logits, output = wide.logits(f'10.79.0.1:{PORT}')
    assert logits == local, 'logits differ'
    assert 'transport rdma' in output, output[-3000:]
    assert len(activated(wide)) == 2
    assert wide.log().index(f'dev={SECOND}') < wide.log().index('dev=rxe0')


@pytest.mark.parametrize('server, client', [({'GGML_RDMA_RAILS': '1'}, {}), ({}, {'GGML_RDMA_RAILS': '1'}),
                                            ({'GGML_RDMA_DEV': 'rxe0'}, {}), ({}, {'GGML_RDMA_DEV': 'rxe0'})])
def test_settings_of_either_side_restrict_them(wide, local, server, client):
    wide.server(env=server)
    logits, output = wide.logits(EP, env=client)
    assert logits == local, 'logits differ'
    assert 'transport rdma' in output, output[-3000:]
    assert len(activated(wide)) == 1


@pytest.mark.parametrize('server, client, rails', [
    ({}, {}, 1), (TWO, TWO, 2), ({}, TWO, 1), (TWO, {}, 1), ({'GGML_RDMA_RAILS': '4'}, {'GGML_RDMA_RAILS': '3'}, 3),
    ({'GGML_RDMA_RAILS': '4'}, {'GGML_RDMA_RAILS': '4'}, 4)])
def test_several_queue_pairs_of_one_device(rig, local, server, client, rails):
    rig.server(env=server)
    logits, output = rig.logits(EP, env=client)
    assert logits == local, 'logits differ'
    assert 'transport rdma' in output, output[-3000:]
    assert len(activated(rig)) == rails


@pytest.mark.parametrize('a, b', [(True, False), (False, True)])
def test_a_second_device_at_one_end_is_not_used(local, a, b):
    with two_cables(a, b) as pair:
        rig = Lab(pair)
        rig.server()
        logits, output = rig.logits(EP)
        assert logits == local, 'logits differ'
        assert 'transport rdma' in output, output[-3000:]
        assert len(activated(rig)) == 1


def test_links_between_servers(wide, local):
    wide.server()
    wide.server_in_client_machine(port=PORT + 1)
    logits, output = wide.logits(f'{EP},10.77.0.2:{PORT + 1}')
    assert logits == local
    assert f'RPC server {EP} sends directly to 10.77.0.2:{PORT + 1} over ' in output
    # A session with two, and both ends of a link with two. The other session is within the client's machine.
    assert len(activated(wide)) >= 6


@pytest.mark.parametrize('knows_address', [True, False], ids=['silent', 'unreachable'])
def test_a_pair_without_a_path_is_left_out(fragile, local, knows_address):
    """The port is up, but no packet gets through: the pair cannot be proven, or not even be connected."""
    if knows_address:
        a, b = fragile.server_machine, fragile.client_machine
        for machine, other in ((a, b), (b, a)):
            _, address = other.run('cat /sys/class/net/eth1/address', check=True)
            machine.run(f'ip neigh replace {other.second_ip} lladdr {address.strip()} dev eth1', check=True)
    fragile.client_machine.run('tc qdisc add dev eth1 root netem loss 100%', check=True)
    fragile.server()
    assert fragile.logits(EP, env={'GGML_RPC_TRANSPORT': 'rdma'})[0] == local
    assert 0 < len(activated(fragile)) == fragile.log().count('RDMA probed: dev=rxe0')  # one for each session
    if not knows_address:
        assert re.search(f'RDMA: a queue pair of {SECOND} is not used: .*', fragile.log())


@pytest.mark.parametrize('count, numbers, reason', [
    (0, '', 'the client offers no queue pair, or more than 4'),
    (5, '1 2 3 4', 'the client offers no queue pair, or more than 4'),
    (2**32 - 1, '1 2 3 4', 'the client offers no queue pair, or more than 4'),
    (2, '7 7', 'the client offers the same queue pair twice'),
    (4, '1 2 3 1', 'the client offers the same queue pair twice'),
    (2, '7', 'accepted 1'),  # the second is zeros
    (4, '1 2 3 4', 'accepted 11'),
])
def test_offers_out_of_bounds(rig, local, count, numbers, reason):
    rig.server(env=TWO)
    code, output = rig.client_machine.run(f'{OFFERS} rails {count} {numbers}')
    assert (code, output) == (0, reason + '\n'), rig.log()
    logits, output = rig.logits(EP, env=TWO)
    assert logits == local, 'logits differ'
    assert 'transport rdma' in output, output[-3000:]
    assert len(activated(rig)) == 2


@pytest.mark.parametrize('verdict', [1, 2, 255])
def test_verdict_on_a_pair_that_was_not_proven(rig, local, verdict):
    server = rig.server()
    code, output = rig.client_machine.run(f'{OFFERS} verdict {verdict}')
    assert (code, output) == (0, 'accepted 1\n')
    server.wait_for('the client confirmed a token over RDMA that was never sent', 20)
    logits, output = rig.logits(EP)
    assert logits == local, 'logits differ'
    assert 'transport rdma' in output, output[-3000:]


def test_a_token_takes_the_same_messages(rig):
    """Tokens use the first queue pair only."""
    def sends(rails, tokens):
        before = [machine.counters()['rdma_sends'] for machine in (rig.client_machine, rig.server_machine)]
        rig.client_machine.run(f'/usr/bin/llama-bench -m {MODEL} -t 1 -ngl 99 -p 0 -n {tokens} -r 1 --no-warmup --rpc {EP} '
                               '2>/dev/null', check=True, timeout=120,
                               env=rig.environment(GGML_RPC_TRANSPORT='rdma', GGML_RDMA_RAILS=str(rails)))
        after = [machine.counters()['rdma_sends'] for machine in (rig.client_machine, rig.server_machine)]
        return [b - a for a, b in zip(before, after)]

    rig.server(env=TWO)
    few, many = 20, 220
    for rails in (1, 2):
        load, run = sends(rails, few), sends(rails, many)
        for a, b in zip(load, run):
            assert (b - a) / (many - few) <= 1.6, (rails, load, run)
    assert len(activated(rig)) == 2 + 2 * 2


LOGITS = PERPLEXITY.replace('--chunks 2', '--chunks 24')


def computing(rig):
    """A client that is computing logits over both devices, and the file that it writes."""
    file = rig.pair.shared / 'logits'
    before = bytes_sent(rig.server_machine)
    client = rig.client_machine.start(f'{LOGITS} -ngl 99 --rpc {EP} --save-all-logits {file}', env=rig.environment())
    deadline = time.monotonic() + 60
    while min(b - a for a, b in zip(before, bytes_sent(rig.server_machine))) < 200_000:
        assert time.monotonic() < deadline and client.returncode is None, client.output() + rig.log()
        time.sleep(0.05)
    return client, file


def assert_continues(rig, client, file):
    assert client.wait(90) == 0, client.output()[-2000:] + rig.log()
    local = rig.pair.shared / 'local'
    rig.client_machine.run(f'{LOGITS} --device none --save-all-logits {local}', timeout=120, check=True, env=rig.environment())
    assert file.read_bytes() == local.read_bytes(), client.output()[-3000:] + rig.log()
    assert re.search(r'connection to RPC server .* lost \(.+\); reconnected over tcp', client.output()), client.output()[-2000:]


# Removing one of two devices is no fault here: Soft-RoCE goes on until the session ends.

@pytest.mark.parametrize('side', ['a', 'b'])
def test_continues_without_the_second_cable(fragile, side):
    fragile.server()
    client, file = computing(fragile)
    getattr(fragile.pair, side).link_second(False)
    assert_continues(fragile, client, file)


@pytest.mark.parametrize('side', ['a', 'b'])
def test_continues_without_the_second_interface(fragile, side):
    fragile.server()
    client, file = computing(fragile)
    getattr(fragile.pair, side).run('ip link set eth1 down', check=True)
    assert_continues(fragile, client, file)


# While text is generated, only the first device is used. The loss of the second one is noticed too.

def test_generates_on_without_the_second_cable(fragile):
    fragile.server()
    client, file = writing(fragile)
    fragile.server_machine.link_second(False)
    client.wait_for('reconnected over tcp', 20)
    client.wait_for('uses RDMA again', 40)
    sends_soon(fragile, client)
    assert_text(fragile, client, file)
    assert len(activated(fragile)) == 2 + 1


def test_returns_to_both_devices(fragile):
    fragile.server()
    client, file = writing(fragile)
    fragile.client_machine.link(False)
    time.sleep(3)
    fragile.client_machine.link(True)
    client.wait_for('uses RDMA again', 40)
    sends_soon(fragile, client)
    assert_text(fragile, client, file)
    assert len(activated(fragile)) == 2 + 2
