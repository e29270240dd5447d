"""Tests of the lab itself. Skipped where no virtual machine can run."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import lab
from lab.selftest import PERFTEST_PORT


def lacking():
    try:
        lab.choose()
    except lab.Unavailable as error:
        return str(error)
    return ''


pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or 'available')


@pytest.fixture(scope='module')
def pair():
    with lab.Pair() as machines:
        yield machines


def test_a_command_returns_its_code_and_output(pair):
    assert pair.a.run('echo one; echo two >&2; exit 3') == (3, 'one\ntwo\n')
    assert pair.a.run(['printf', '%s|', 'a b', '', "c'd"]) == (0, "a b||c'd|")
    assert pair.a.run('kill -TERM $$') == (-signal.SIGTERM, '')
    assert pair.a.run(['no-such-program'])[0] == 127


def test_long_output_is_complete(pair):
    code, output = pair.a.run('for i in {1..20000}; do echo "$i 0123456789012345678901234567890123456789"; done')
    assert code == 0
    assert [int(line.split()[0]) for line in output.splitlines()] == list(range(1, 20001))


def test_environment_and_folder(pair):
    assert pair.a.run('echo $COLOUR; pwd', env={'COLOUR': 'red'}, cwd='/usr') == (0, 'red\n/usr\n')
    assert pair.b.run('hostname; id -u') == (0, 'b\n0\n')


def test_a_command_is_killed_at_its_time_out(pair):
    begin = time.monotonic()
    with pytest.raises(lab.TimedOut, match='printed:\nbegun'):
        pair.a.run('echo begun; sleep 987', timeout=2)
    assert time.monotonic() - begin < 10
    assert pair.a.run('for i in {1..100}; do pgrep -fx "sleep 987" || exit 0; sleep .05; done') == (0, '')


def test_waiting_for_output(pair):
    process = pair.a.start('echo ready on port 4711; sleep 987')
    assert process.wait_for(re.compile(r'port (\d+)'))[1] == '4711'
    assert process.returncode is None
    with pytest.raises(lab.TimedOut):
        process.wait_for('more', timeout=.2)
    process.kill(signal.SIGINT)
    assert process.wait() == -signal.SIGINT
    with pytest.raises(lab.LabError, match="without printing 'more'"):
        process.wait_for('more')


def test_an_unprivileged_user_with_a_memlock_limit(pair):
    assert pair.a.run('id -u; ulimit -l; ulimit -Hl', user=1000, memlock=8 << 20) == (0, '1000\n8192\n8192\n')
    assert pair.a.run('test -w /dev/infiniband/uverbs0', user=1000)[0] == 0


def test_only_the_shared_folder_is_writable(pair):
    (pair.shared / 'from-here').write_text('hello')
    assert pair.a.run(f'cat {pair.shared}/from-here; echo there >{pair.shared}/from-there') == (0, 'hello')
    assert (pair.shared / 'from-there').read_text() == 'there\n'
    assert pair.b.run(f'cat {pair.shared}/from-there') == (0, 'there\n')
    here = pathlib.Path(__file__).resolve().parent
    assert pair.a.run(f'cmp {here}/lab.py {here}/lab.py && touch {here}/new')[0] != 0
    assert pair.a.run('touch /usr/new && echo more >>/etc/hostname')[0] == 0
    assert not pathlib.Path('/usr/new').exists()
    assert pair.b.run('test -e /usr/new')[0] == 1


def test_rdma_is_ready(pair):
    for machine in (pair.a, pair.b):
        _, text = machine.run('ibv_devinfo -v', check=True)
        assert 'PORT_ACTIVE' in text and f'::ffff:{machine.ip}, RoCE v2' in text and f'{machine.ip6}, RoCE v2' in text
        assert re.search(r'active_mtu:\s+4096', text)


def pingpong(pair, options='-g 1 -n 200', address=None):
    server = pair.b.start(f'stdbuf -oL ibv_rc_pingpong -e {options}')
    pair.b.wait_listening(PERFTEST_PORT)
    code, output = pair.a.run(f'ibv_rc_pingpong -e {options} {address or pair.b.ip}')
    return code, output, server


@pytest.mark.parametrize('gid', [0, 1, 2])
def test_rdma_moves_data_and_counts_packets(pair, gid):
    before = pair.a.counters()['sent_pkts']
    code, output, server = pingpong(pair, f'-g {gid} -n 200')
    assert code == 0, output
    assert server.wait() == 0
    assert pair.a.counters()['sent_pkts'] - before >= 200


def wait_for_port(machine, state):
    machine.run(f'cd /sys/class/infiniband/rxe0/ports/1; for ((i = 0; i < 500; i++)); do '
                f'grep -q {state} state && exit; sleep .02; done; exit 1', check=True)


def test_unplugging_and_plugging_in_the_cable(pair):
    watch = pair.a.start('stdbuf -oL ibv_asyncwatch')
    watch.wait_for('async event')
    pair.a.link(False)
    watch.wait_for('PORT_ERR')
    wait_for_port(pair.a, 'DOWN')
    assert pair.a.run('cat /sys/class/net/eth0/carrier') == (0, '0\n')
    assert pair.a.run(f'ping -c 1 -W 1 {pair.b.ip}')[0] != 0
    assert pair.a.ip in pair.a.run('ip -br address show dev eth0')[1]
    pair.a.link(True)
    watch.wait_for('PORT_ACTIVE')
    watch.kill()
    wait_for_port(pair.a, 'ACTIVE')
    pair.a.run(f'ping -c 1 -w 10 {pair.b.ip}', check=True)
    assert pingpong(pair)[0] == 0


def test_rdma_fails_when_its_interface_goes_down(pair):
    server = pair.b.start('stdbuf -oL ib_send_bw -x 1 -D 60')
    pair.b.wait_listening(PERFTEST_PORT)
    before = pair.a.counters()['sent_pkts']
    client = pair.a.start(f'ib_send_bw -x 1 -D 60 {pair.b.ip}')
    deadline = time.monotonic() + 30
    while pair.a.counters()['sent_pkts'] < before + 100:
        assert time.monotonic() < deadline
    pair.a.link(False, interface=True)
    try:
        assert client.wait() != 0
    finally:
        pair.a.link(True, interface=True)
        server.kill()
    wait_for_port(pair.a, 'ACTIVE')
    pair.a.run(f'ping -c 1 -w 10 {pair.b.ip6}', check=True)
    assert pingpong(pair, '-g 2 -n 10')[0] == 0


def test_a_suspended_machine_continues(pair):
    process = pair.b.start('for i in {1..1000}; do echo tick $i; sleep .1; done')
    process.wait_for('tick 2')
    pair.b.stop()
    before = process.output()
    with pytest.raises(lab.TimedOut):
        process.wait_for(f'tick {before.count("tick") + 8}', timeout=2)
    pair.b.cont()
    process.wait_for(f'tick {before.count("tick") + 8}')
    process.kill()


def test_a_killed_machine_boots_again(pair):
    process = pair.b.start('sleep 987')
    pair.b.kill()
    with pytest.raises(lab.MachineGone):
        process.wait()
    with pytest.raises(lab.MachineGone):
        pair.b.run('true')
    assert pair.a.run('echo alive') == (0, 'alive\n')
    pair.b.boot()
    pair.b.wait_up()
    code, output, _ = pingpong(pair)
    assert code == 0, output


def test_machines_with_different_configurations():
    a = lab.Config(mtu=1500, spare=True)
    b = lab.Config(rdma=False)
    with lab.Pair(a, b) as machines:
        _, text = machines.a.run('ibv_devinfo', check=True)
        assert set(re.findall(r'hca_id:\s+(\S+)', text)) == {'rxe0', 'rxe1'}
        assert re.search(r'active_mtu:\s+1024', machines.a.run('ibv_devinfo -d rxe0')[1])
        assert 'No IB devices found' in machines.b.run('ibv_devinfo')[1]
        machines.a.run(f'ping -c 1 -w 10 {machines.b.ip}', check=True)


def test_second_cable():
    both = lab.Config(second=True)
    try:
        machines = lab.Pair(both, both)
    except lab.Unavailable as error:
        pytest.skip(str(error))
    with machines:
        ping = f'ping -c 1 -w 2 {machines.b.second_ip}'
        machines.a.run(ping, check=True)
        assert 'rxe1' in machines.a.run('ibv_devices')[1]
        machines.a.link(False)
        machines.a.run(ping, check=True)
        machines.a.link(True)
        machines.b.link_second(False)
        assert machines.a.run(ping)[0] == 1
        machines.a.run(f'ping -c 1 -w 10 {machines.b.ip}', check=True)


def test_the_address_on_a_bridge():
    with lab.Pair(lab.Config(bridge=True)) as machines:
        assert machines.a.ip in machines.a.run('ip -br address show dev br0')[1]
        assert machines.a.ip not in machines.a.run('ip -br address show dev eth0')[1]
        machines.a.run(f'ping -c 1 -w 10 {machines.b.ip}', check=True)


def test_two_pairs_at_the_same_time(pair):
    with lab.Pair() as other:
        other.b.run('echo mine >/tmp/mine', check=True)
        assert pair.b.run('test -e /tmp/mine')[0] == 1
        assert pingpong(other)[0] == pingpong(pair)[0] == 0


def test_no_process_survives_its_creator():
    program = ('import sys; sys.path.insert(0, sys.argv[1]); import lab, time\n'
               'pair = lab.Pair().__enter__()\n'
               'print(pair.folder, flush=True)\n'
               'time.sleep(100)\n')
    child = subprocess.Popen([sys.executable, '-c', program, str(pathlib.Path(__file__).resolve().parent.parent)],
                             stdout=subprocess.PIPE, text=True)
    folder = child.stdout.readline().strip()
    assert len(machines_in(folder)) >= 2
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 10
    while machines_in(folder) and time.monotonic() < deadline:
        time.sleep(.05)
    assert not machines_in(folder)
    subprocess.run(['rm', '-r', folder], check=True)


def machines_in(folder):
    """Returns the processes whose command line contains folder."""
    found = []
    for entry in os.listdir('/proc'):
        try:
            if entry.isdigit() and folder.encode() in pathlib.Path('/proc', entry, 'cmdline').read_bytes():
                found.append(int(entry))
        except OSError:
            pass
    return found
