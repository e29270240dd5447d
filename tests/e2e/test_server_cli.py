"""rpc-server as its user meets it: options, messages, exit codes, signals."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

import stockwire
from attacks import ask_session
from harness import local_logits, same
from processes import InBackground, Server
from proxy import Proxy
from stockwire import command, greet, receive
from system import BIN, MODEL, RPC_SERVER, children, eventually, free_port, is_alive


def ask(lab, *options, rc=0, env=None):
    return lab.run([RPC_SERVER, *options], tool=False, rc=rc, env=env, timeout=30)


def the_only_line(done):
    lines = done.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), done.log
    return lines[0]


# --- the two programs ------------------------------------------------------------------------------------------------

WORKER = RPC_SERVER.with_name('caravan-worker')


def test_the_main_process_loads_nothing_of_ggml(lab):
    needed = subprocess.run(['readelf', '-d', RPC_SERVER], check=True, capture_output=True, text=True).stdout
    assert 'NEEDED' in needed and 'ggml' not in needed
    server = lab.server()
    lab.logits([server])
    assert 'libggml' not in Path(f'/proc/{server.pid}/maps').read_text()
    assert WORKER.name in os.readlink(f'/proc/{server.workers()[0]}/exe')


def test_a_missing_worker_program_is_named_with_the_remedy(lab):
    alone = lab.folder / 'bin' / 'rpc-server'
    alone.parent.mkdir()
    shutil.copy(RPC_SERVER, alone)
    done = lab.run([alone, '-p', 0], tool=False, rc=1)
    line = the_only_line(done)
    for place in 'bin', 'libexec/caravan':
        assert f'{lab.folder / place / "caravan-worker"} (No such file or directory)' in line
    assert 'Install it together with rpc-server, or build the target rpc-server' in line
    assert lab.run([alone, '--list-devices'], tool=False, rc=1).out == ''
    assert 'ggml unknown: cannot find the program' in lab.run([alone, '--version'], tool=False).out
    assert lab.run([alone, '--help'], tool=False).out == ask(lab, '--help').out


def test_a_worker_program_of_another_build_is_refused(lab):
    program, worker = lab.folder / 'rpc-server', lab.folder / 'caravan-worker'
    shutil.copy(RPC_SERVER, program)
    build, = set(re.findall(rb'0\.\d+\.\d+-[0-9a-f]{12}', RPC_SERVER.read_bytes()))
    worker.write_bytes(WORKER.read_bytes().replace(build, build[:-1] + b'x'))
    worker.chmod(0o755)
    line = the_only_line(lab.run([program, '-p', 0, '-t', 1], tool=False, rc=1, timeout=30))
    assert re.match(r'error: caravan-worker is of build \S+x(-\S+)? and rpc-server of build \S+: install or build both together', line)


def test_the_worker_program_is_not_for_people(lab):
    assert 'See rpc-server --help' in lab.run([WORKER], tool=False, rc=2).err


# --- options ---------------------------------------------------------------------------------------------------------

def test_help_says_what_every_option_does(lab):
    said = ask(lab, '--help').out
    for option in ['--host', '--port', '--threads', '--device', '--cache', '--cache-size', '--model-dir',
                   '--max-sessions', '--max-per-address', '--idle-limit', '--max-memory', '--no-confinement', '--drain', '--links',
                   '--load-timeout', '--no-spare', '--list-devices', '--version', 'LLAMA_CACHE', 'Exit codes:']:
        assert option in said
    assert not re.search(r'--\S*(fd|control|worker)\b', said)  # what is between the two programs only


def test_version(lab):
    assert re.fullmatch(r'Caravan rpc-server \d+\.\d+\.\d+ \(RPC protocol 8\.\d+\.\d+, ggml .+\)\n', ask(lab, '--version').out)


def test_list_devices(lab):
    done = ask(lab, '--list-devices')
    assert 'CPU' in done.out
    assert done.err == ''


@pytest.mark.parametrize('options', [['--no-such-option'], ['-p', 'many'], ['-p', '70000'], ['-t', '0'],
                                     ['--max-sessions', '0'], ['--drain', '-1'], ['--drain', 'forever'], ['stray'],
                                     ['--cache-size', '5G'], ['--links', 'nowhere'], ['-c', '--cache-size', 'large'],
                                     ['--model-dir', '/', 'stray']], ids=' '.join)
def test_wrong_command_line(lab, options):
    done = ask(lab, *options, rc=2)
    assert done.err.strip() and done.out == ''


@pytest.mark.parametrize('options, remedy', [
    (['-H', 'unix:/tmp/s', '-p', '77'], 'leave out -p'),
    (['--cache-dir', '/tmp'], 'add -c'),
    (['-H', '0.0.0.0:77'], '-H 0.0.0.0 -p 77'),
    (['-H', '[::1]:77'], '-H ::1 -p 77'),
    (['--max-memory', '5X'], 'write 500M, 1.5G or 50GiB'),
], ids=str)
def test_options_that_contradict_each_other_are_refused_with_a_remedy(lab, options, remedy):
    done = ask(lab, *options, rc=2)
    assert remedy in done.err and done.out == ''


def test_an_ipv6_address_may_be_in_brackets(lab):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(('::1', 0))
        except OSError:
            pytest.skip('no IPv6 here')
    assert lab.server(host='[::1]').endpoint.startswith('[::1]:')


def test_sizes_have_units_that_people_use(lab):
    assert re.search(r'CPU: .* \(\d+(\.\d)? [GT]iB, \d+(\.\d)? [MGT]iB free\)', ask(lab, '--list-devices').out)
    assert 'at most 1.5 GiB of memory each' in lab.server('--max-memory', '1.5G').out()


# --- starting --------------------------------------------------------------------------------------------------------

def test_port_in_use(lab):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        line = the_only_line(ask(lab, '-p', port, rc=1))
    assert f'127.0.0.1 port {port}' in line and 'in use' in line


@pytest.mark.parametrize('host', ['no.such.host.invalid', '192.0.2.1', 'unix:/no/such/folder/socket',
                                  'unix:/tmp/' + 'x' * 200], ids=lambda host: host[:20])
def test_impossible_address(lab, host):
    port = [] if host.startswith('unix:') else ['-p', 0]
    assert host[:20] in the_only_line(ask(lab, '-H', host, *port, rc=1))


def test_unknown_device(lab):
    line = the_only_line(ask(lab, '-p', 0, '-d', 'CUDA77', rc=1))
    assert 'CUDA77' in line


@pytest.mark.parametrize('device', ['CUDA77', 'CPU'])
def test_no_port_before_the_devices_are_known(lab, device):
    """A back-end that takes long to load: what opens a pipe waits for its writer."""
    backend = lab.folder / 'backend.so'
    os.mkfifo(backend)
    port = free_port()
    server = lab.start('rpc-server', [RPC_SERVER, '-p', port, '-t', 1, '-d', device], tool=False,
                       env={'GGML_BACKEND_PATH': backend})
    eventually(lambda: children(server.pid), 'a worker loads')
    for _ in range(20):
        with socket.socket() as probe:
            assert probe.connect_ex(('127.0.0.1', port)) != 0
        time.sleep(0.02)
    with open(backend, 'wb'):
        pass
    if device == 'CPU':
        server.wait_for('  sessions       : ')
        with socket.socket() as probe:
            assert probe.connect_ex(('127.0.0.1', port)) == 0
    else:
        assert server.wait() == 1 and 'CUDA77' in server.err()


def test_a_cache_that_cannot_be_written_is_off_in_the_banner(lab):
    out = lab.server('-c', '--cache-dir', '/proc/no/folder').out()
    assert re.search(r'  local cache    : off: cannot create directory /proc/no/folder\S*: ', out), out


def test_the_banner_names_threads_and_shared_memory(lab):
    cores = len(os.sched_getaffinity(0))
    assert re.search(rf'  threads        : 1 for each session, on {cores} cores?\n', lab.server().out())
    server = lab.server('-d', 'CPU,CPU')
    assert f'  threads        : 1 for each session and CPU device, on {cores} core' in server.out()
    assert len(re.findall(r'(?m)^  CPU: .* free; the 2 CPU devices share it\)$', server.out())) == 2, server.out()


def test_the_banner_promises_no_rdma_without_a_device(lab):
    """Nor for a Unix socket."""
    if Path('/sys/class/infiniband').is_dir() and os.listdir('/sys/class/infiniband'):
        pytest.skip('an RDMA device is here')
    line = re.search(r'  transport      : (.*)\n', lab.server().out()).group(1)
    assert line == 'TCP' or line.startswith('TCP (no RDMA: '), line
    assert '  transport      : Unix socket\n' in lab.server(host=f'unix:{lab.folder}/rpc.sock').out()


def test_a_warning_when_one_session_has_more_threads_than_cores(lab):
    cores = len(os.sched_getaffinity(0))
    server = lab.start('rpc-server', [RPC_SERVER, '-p', 0, '-t', cores + 1], tool=False)
    server.wait_for(rf'warning: -t {cores + 1}: this machine has {cores} cores?, and computes faster with -t {cores}\n')


def test_unusable_cache_folder(lab):
    file = lab.folder / 'file'
    file.write_text('')
    assert str(file) in the_only_line(ask(lab, '-p', 0, '-c', '--cache-dir', file, rc=1))


def test_a_free_port_is_announced_and_works(lab):
    one, other = lab.server(), lab.server()
    assert one.endpoint != other.endpoint and not one.endpoint.endswith(':0')
    for server in one, other:
        assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]


def test_a_named_device(lab):
    server = lab.server('-d', 'CPU')
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]


def test_warning_when_others_can_reach_it(lab):
    server = lab.start('rpc-server', [RPC_SERVER, '-H', '0.0.0.0', '-p', 0, '-t', 1], tool=False)
    server.wait_for('warning: .*no authentication')
    assert server.stop() == 0


def test_no_warning_on_loopback(lab):
    server = lab.server()
    assert server.stop() == 0
    assert server.err() == ''


def test_unix_socket_file_comes_and_goes(lab):
    path = lab.folder / 'rpc.sock'
    server = lab.server(host=f'unix:{path}')
    assert path.is_socket()
    assert server.stop() == 0
    assert not path.exists()


def test_unix_socket_left_by_a_crash_is_taken_over(lab):
    path = lab.folder / 'rpc.sock'
    lab.server(host=f'unix:{path}').kill()
    assert path.is_socket()
    server = lab.server(host=f'unix:{path}')
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]


def test_unix_socket_in_use_is_not_taken(lab):
    path = lab.folder / 'rpc.sock'
    server = lab.server(host=f'unix:{path}')
    the_only_line(ask(lab, '-H', f'unix:{path}', rc=1))
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]


def test_a_file_in_the_way_of_a_unix_socket_stays(lab):
    path = lab.folder / 'precious'
    path.write_text('data')
    assert f'unix:{path}: the file exists and is not a socket' in the_only_line(ask(lab, '-H', f'unix:{path}', rc=1))
    assert path.read_text() == 'data'


# --- stopping --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_an_idle_server(lab, number):
    server = lab.server()
    workers = server.workers()
    began = time.monotonic()
    server.signal(number)
    assert server.wait() == 0
    assert time.monotonic() - began < 3
    assert not any(is_alive(worker) for worker in workers)
    assert server.count(rf'stopping \({number.name}\): served 0 sessions\n') == 1


def test_sessions_may_go_on_for_a_while(lab):
    server = lab.server('--drain', 60)
    llama = lab.llama_server([server])
    wanted = llama.complete(n=8)
    server.signal(signal.SIGTERM)
    server.wait_for(r'stopping \(SIGTERM\): served \d+ sessions?; 1 session may go on for 60 s; a second signal ends it now')
    assert llama.complete(n=8) == wanted
    with stockwire.connect(server) as newcomer:
        newcomer.sendall(stockwire.command(stockwire.HELLO, bytes(24)) + stockwire.command(stockwire.DEVICE_COUNT))
        newcomer.settimeout(5)
        receive(newcomer, 36)
        assert stockwire.is_dropped(newcomer)
    refused = lab.start('llama-bench', ['llama-bench', '--rpc', server.endpoint, '--list-devices'])
    refused.wait()
    assert 'the server is stopping' in refused.log()
    llama.stop()
    began = time.monotonic()
    assert server.wait() == 0
    assert time.monotonic() - began < 5
    assert server.ended() == server.accepted()


def test_the_drain_ends(lab):
    server = lab.server('--drain', 1)
    client = lab.endless_completion([server])
    workers = server.workers()
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0
    assert client.wait() > 0
    assert not any(is_alive(worker) for worker in workers)
    assert server.count(r'Client connection closed \(session \d+\): the server stopped') == 1
    assert 'error: ' not in server.err(), 'an orderly end is no failure'


def test_a_drain_without_a_limit_ends_with_the_last_session(lab):
    """Meanwhile a session whose connection breaks goes on over another one."""
    server = lab.server('--drain', 'infinity')
    proxy = Proxy(server)
    try:
        llama = lab.llama_server([proxy])
        wanted = llama.complete(n=8)
        server.signal(signal.SIGTERM)
        server.wait_for('1 session may go on until it ends')
        time.sleep(5.5)  # longer than the default
        proxy.cut()
        assert llama.complete(n=8) == wanted
        server.wait_for('Connected again:')
        llama.kill()
        assert server.wait(15) == 0
        assert 'error: ' not in server.err()
    finally:
        proxy.close()


def test_a_session_over_a_unix_socket_ends_with_its_client(lab):
    """No network could have broken the connection, so nobody is waited for."""
    server = lab.server('--max-sessions', 2, '--max-per-address', 2, host=f'unix:{lab.folder}/rpc.sock')
    for _ in range(2):
        clients = [lab.endless_completion([server]) for _ in range(2)]
        for client in clients:
            client.kill()
        server.wait_idle(5)
    same(lab.logits([server]), local_logits(lab))
    server.wait_idle(5)


def test_a_second_signal_ends_it_now(lab):
    server = lab.server('--drain', 600)
    client = lab.endless_completion([server])
    server.signal(signal.SIGTERM)
    server.wait_for('a second signal ends it now')
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0
    assert client.wait() > 0


def test_no_worker_outlives_a_crash(lab):
    server = lab.server()
    lab.endless_completion([server])
    workers = server.workers()
    assert len(workers) == 2  # one serves, one is spare
    server.kill()
    eventually(lambda: not any(is_alive(worker) for worker in workers), 'the workers of a dead server end', 5)


# --- sharing cores ---------------------------------------------------------------------------------------------------

def variables(pid):
    try:
        return Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
    except PermissionError:
        pytest.skip('a worker does not show its environment to this user')


def test_workers_do_not_spin_for_long(lab):
    worker, = lab.server().workers()
    assert b'GOMP_SPINCOUNT=300' in variables(worker)


@pytest.mark.parametrize('setting', ['GOMP_SPINCOUNT=7', 'OMP_WAIT_POLICY=active'])
def test_the_users_setting_of_spinning_is_kept(lab, setting):
    worker, = lab.server(env=dict([setting.split('=')])).workers()
    assert [entry for entry in variables(worker) if entry.startswith((b'GOMP_SPIN', b'OMP_WAIT'))] == [setting.encode()]


def test_a_warning_when_sessions_share_cores(lab):
    cores = os.cpu_count()
    server = lab.start('rpc-server', [RPC_SERVER, '-p', 0, '-t', cores], tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    with contextlib.ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(greet(server))
            client.sendall(command(0, struct.pack('<IQ', 0, 4096)))
            receive(client, 24)
        server.wait_for(rf'warning: 2 sessions with {cores} threads each share {cores} cores?')
        assert server.count('threads each share') == 1


# --- limits ----------------------------------------------------------------------------------------------------------

def test_max_sessions_makes_others_wait(lab):
    server = lab.server('--max-sessions', 1)
    first = lab.endless_completion([server])
    assert 'is full' not in first.log(), 'its session for queries, which has just ended'
    second = lab.start('llama-bench', ['llama-bench', '--rpc', server.endpoint, '--list-devices'])
    assert second.wait() == 0  # needs no session
    wanted = local_logits(lab)
    killer = InBackground(lambda: (server.wait_for('waits for a session: 1 in use'), first.kill()))
    same(lab.logits([server]), wanted)
    killer.result()
    said = lab.processes[-1].log()
    assert f'RPC server {server.endpoint} is full: 1 session is served, and this client is at place 1 of the queue' in said
    assert f'RPC server {server.endpoint} has a free session' in said


def ask_admission(server):
    peer = stockwire.connect(server)
    peer.sendall(stockwire.command(stockwire.HELLO, bytes(4) + b'CARAVAN1' + struct.pack('<IQ', 8, 0)) + stockwire.command(135))
    receive(peer, 36)
    return peer


def admissions(peer, last):
    """All (position, reason, sessions) up to `last`."""
    got = []
    while not got or got[-1] != last:
        got.append(struct.unpack('<QIII', receive(peer, 20))[1:])
    return got


def test_a_session_that_ends_at_once_is_not_waited_for(lab):
    server = lab.server('--max-sessions', 1)
    with ask_session(server, '127.0.0.1') as first, ask_admission(server) as second:
        first.close()
        notices = admissions(second, (0, 0, 0))
    assert not [reason for _, reason, _ in notices if reason == 1], 'it was refused because the server is full'
    assert server.count('waits for a session') == 0


def wait_in_vain(lab, server, env=()):
    """Of a full server: (the program, which has ended, seconds)."""
    began = time.monotonic()
    client = lab.start('llama-completion', ['llama-completion', '-m', MODEL, '-ngl', 99, '--rpc', server.endpoint, '-p', 'x',
                                            '-n', 1, '-no-cnv', '--no-warmup', '-lv', 4],
                       env={'GGML_RPC_TIMEOUT_S': 4, **dict(env)})
    client.wait()
    return client, time.monotonic() - began


def test_one_time_out_for_the_whole_start(lab):
    """A program that waits in vain for a full server fails once, with the reason, not once for each question."""
    server = lab.server('--max-sessions', 1)
    lab.endless_completion([server])
    client, waited = wait_in_vain(lab, server)
    assert client.wait() == 1
    assert waited < 4 + 3, 'shorter than the time to connect, 10 s'
    line, = (line for line in client.log().splitlines() if 'what to do: end a program that uses the server' in line)
    assert f'RPC server {server.endpoint}: no session in 4 s: 1 session is served, and this client is at place 1 of the queue' in line
    assert 'no progress' not in client.log() and 'cannot query' not in client.log()


def test_a_required_server_that_is_full_ends_the_program(lab):
    server = lab.server('--max-sessions', 1)
    lab.endless_completion([server])
    client, _ = wait_in_vain(lab, server, env={'GGML_RPC_REQUIRE': 1})
    assert client.wait() == 75
    assert client.count(rf'(?m)^error: RPC server {server.endpoint}: no session in 4 s: .* ends with code 75$') == 1


def test_places_in_the_queue_move_up(lab):
    server = lab.server('--max-sessions', 1)
    queue = [ask_admission(server) for _ in range(3)]

    def places(peer, last):
        """Up to `last`, which may come after some that last until a worker process has started."""
        return [position for position, *_ in admissions(peer, last)]
    admitted = 0, 0, 0
    places(queue[0], admitted)
    assert set(places(queue[1], (1, 1, 1))) == {1}
    assert set(places(queue[2], (2, 1, 1))) == {2}
    queue[0].close()
    places(queue[1], admitted)
    queue[1].sendall(stockwire.command(0, struct.pack('<IQ', 0, 4096)))
    receive(queue[1], 24)
    assert set(places(queue[2], (1, 1, 1))) <= {1, 2}
    queue[1].close()
    assert set(places(queue[2], admitted)) <= {0, 1}


def test_an_idle_session_makes_room_for_another_address(lab):
    """Not for one of its own, and not while nobody waits."""
    server = lab.server('--max-sessions', 1, '--idle-limit', 2)
    idle = ask_session(server, '127.0.0.1')
    idle.settimeout(0.5)
    same_address = ask_session(server, '127.0.0.1', wait=False)
    with pytest.raises(TimeoutError):
        idle.settimeout(3)
        idle.recv(1)
    same_address.close()
    began = time.monotonic()
    other = ask_session(server, '127.0.0.2')
    assert time.monotonic() - began < 3
    assert stockwire.is_dropped(idle)
    server.wait_for('idle for 2 s while other clients wait for a session')
    time.sleep(3)
    other.sendall(stockwire.command(stockwire.DEVICE_COUNT))
    receive(other, 12)


def answers(peer):
    try:
        peer.sendall(stockwire.command(stockwire.DEVICE_COUNT))
        receive(peer, 12)
        return True
    except ConnectionError:
        return False


def test_idle_sessions_are_not_pushed_out_by_those_who_have_as_many(lab):
    """Nor by clients that leave again; and each client that waits gets the place of one."""
    server = lab.server('--max-sessions', 4, '--idle-limit', 1)
    idle = [ask_session(server, f'127.0.0.{i}') for i in range(2, 6)]
    time.sleep(1.5)
    for _ in range(10):
        ask_session(server, '127.0.0.9', wait=False).close()
    time.sleep(1)
    assert all(answers(peer) for peer in idle)
    with ask_session(server, '127.0.0.9') as other:
        assert sum(answers(peer) for peer in idle) == 3
        more = ask_session(server, '127.0.0.9', wait=False)
        time.sleep(4)
        assert sum(answers(peer) for peer in idle) == 3
        assert answers(other)
        more.close()


def doctor(lab, server):
    done = lab.run([BIN / 'rpc-doctor', '--json', server.endpoint], tool=False, rc=None, timeout=60)
    return json.loads(done.out)['endpoints'][0]


def test_the_doctor_waits_for_a_full_server_as_long_as_it_is_told(lab):
    server = lab.server('--max-sessions', 1)
    with ask_session(server, '127.0.0.2'):
        began = time.monotonic()
        done = lab.run([BIN / 'rpc-doctor', '--timeout', 2, server.endpoint], tool=False, rc=1, timeout=60)
        assert time.monotonic() - began < 2 + 3
        assert done.err == (f'{server.endpoint}: waiting for a session, for 2 s at most: 1 session is served, and this client '
                            'is at place 1 of the queue\n')


def test_the_benchmark_says_that_it_waits_and_once_that_it_failed(lab):
    server = lab.server('--max-sessions', 1)
    with ask_session(server, '127.0.0.2'):
        began = time.monotonic()
        done = lab.run([BIN / 'rpc-bench', '--rpc', server.endpoint], tool=False, rc=1, timeout=60,
                       env={'GGML_RPC_TIMEOUT_S': 2})
        assert time.monotonic() - began < 2 + 3
        assert done.err.startswith(f'{server.endpoint}: waiting for a session, for 2 s at most (GGML_RPC_TIMEOUT_S): ')
        assert done.log.count('failed: no session in 2 s: ') == 1, done.log
        for form in 'csv', 'json':
            done = lab.run([BIN / 'rpc-bench', '--rpc', server.endpoint, '-o', form], tool=False, rc=1, timeout=60,
                           env={'GGML_RPC_TIMEOUT_S': 1})
            assert done.err.count('failed: no session in 1 s: ') == 1, done.log


def test_the_doctor_tells_full_stopped_and_good_servers_apart(lab):
    server = lab.server('--max-sessions', 1)
    assert doctor(lab, server)['transport'] == 'tcp'
    busy = ask_session(server, '127.0.0.2')
    full = doctor(lab, server)
    assert full['queue_position'] == 1
    assert any('the server is full' in finding['what'] for finding in full['findings'])
    busy.close()
    server.signal(signal.SIGSTOP)
    assert any('does not reply' in finding['what'] for finding in doctor(lab, server)['findings'])
    server.signal(signal.SIGCONT)


# --- as stock's server -----------------------------------------------------------------------------------------------

def test_stock_server_with_our_plugin_is_ours(lab):
    server = lab.stock_server(ours=True)
    server.wait_for(r'Starting RPC server v8\.\d\.\d \(Caravan ')
    same(lab.logits([server]), local_logits(lab))
    assert server.served() > 0
    assert server.stop() == 0


def test_stock_server_with_our_plugin_keeps_its_options(lab):
    server = lab.stock_server('-c', ours=True, env={'LLAMA_CACHE': lab.folder / 'cache'})
    server.wait_for(rf'local cache    : {re.escape(str(lab.folder))}/cache')
