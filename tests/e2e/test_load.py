"""How stock programs load the plug-in, and what their users see."""
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from harness import local_logits, same
from system import MODEL, PLUGIN, PRELOAD, PROMPT, TEST_OPT


def test_backend_path_unloads_stock(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], env={'GGML_RPC_DEBUG': 1})
    assert done.lines('unloading another RPC back-end')
    assert done.lines(rf'RPC0: {server.endpoint} \(CPU: .*\) \(\d+ MiB, \d+ MiB free\)')


def test_without_backend_path_stock_is_used(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], ours=False, env={'GGML_RPC_DEBUG': 1})
    assert done.lines(rf'RPC0: {server.endpoint} ') and not done.lines('unloading')


def test_wins_by_score_in_the_current_folder(lab):
    """ggml searches libggml-rpc-*.so in its own folder, the program's and the current one."""
    folder = lab.folder / 'here'
    folder.mkdir()
    shutil.copy(PLUGIN, folder)
    server = lab.server()
    env = {'GGML_RPC_DEBUG': 1, 'LD_PRELOAD': PRELOAD}
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], ours=False, env=env, cwd=folder)
    assert done.lines(r'loaded RPC backend from .*libggml-rpc-caravan\.so')
    assert not done.lines(r'loaded RPC backend from .*libggml-rpc\.so')
    assert done.lines(rf'RPC0: {server.endpoint} ')


def test_two_endpoints_are_two_devices(lab):
    one, other = lab.server(), lab.server()
    listed, _ = lab.devices(f'{one.endpoint},{other.endpoint}')
    assert listed == [('RPC0', one.endpoint), ('RPC1', other.endpoint)]


def test_servers_from_the_environment(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--list-devices'], env={'GGML_RPC_SERVERS': server.endpoint})
    assert done.lines(rf'RPC0: {server.endpoint} ')


def test_the_same_server_by_environment_and_option_is_one_device(lab):
    server = lab.server()
    listed, _ = lab.devices(server.endpoint, env={'GGML_RPC_SERVERS': server.endpoint})
    assert listed == [('RPC0', server.endpoint)]


def test_reachable_and_unreachable_server_in_the_environment(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--list-devices'],
                   env={'GGML_RPC_SERVERS': f'127.0.0.1:1,{server.endpoint},,nonsense:x'})
    assert done.lines(rf'RPC0: {server.endpoint} ') and not done.lines('RPC1')
    assert done.lines(r'GGML_RPC_SERVERS: .*127\.0\.0\.1:1: cannot connect: Connection refused')
    assert done.lines(r'GGML_RPC_SERVERS: .*nonsense:x')


def test_a_model_on_a_server_from_the_environment(lab):
    server = lab.server()
    same(lab.logits([server], env={'GGML_RPC_SERVERS': server.endpoint}), local_logits(lab))
    assert server.served() > 0


@pytest.mark.parametrize('endpoint,expected', [
    ('', 'endpoint "": expected host:port'),
    ('a:b:c', 'a:b:c'),
    ('host:0', '"0" is not a port'),
    ('host:', '"" is not a port'),
    ('127.0.0.1:70000', '"70000" is not a port'),
    ('127.0.0.1:1', '127.0.0.1:1: cannot connect: Connection refused'),
    ('[::1', 'no ] after'),
    ('unix:', 'no path after unix:'),
    ('unix:/no/such/socket', 'unix:/no/such/socket: cannot connect: No such file'),
    ('unix:/' + 'x' * 200, 'longer than'),
    ('no.such.host.invalid:50052', 'cannot resolve the host name'),
], ids=lambda value: value[:20])
def test_invalid_endpoint(lab, endpoint, expected):
    listed, done = lab.devices(endpoint)
    assert listed == []
    assert len([line for line in done.log.splitlines() if expected in line]) == 1, done.log
    if 'cannot connect' not in expected and 'cannot resolve' not in expected:
        assert done.lines(r'What to do: .*correct the endpoint: HOST:PORT, \[IPV6\]:PORT or unix:PATH'), done.log


def test_unix_sockets_log_no_reason_against_rdma(lab):
    socket = lab.server(host=f'unix:{lab.folder}/socket').endpoint
    assert lab.devices(socket, env={'GGML_RPC_TRANSPORT': 'rdma'})[0] == [('RPC0', socket)], 'queries need no RDMA'
    argv = ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 1, '-no-cnv', '-t', 1, '-ngl', 99, '--rpc', socket, '-v']
    log = lab.run(argv)
    assert not log.lines(r'transport unix \(') # a build without RDMA logs no transport
    done = lab.run(argv, env={'GGML_RPC_TRANSPORT': 'rdma'}, rc=1)
    assert done.lines('GGML_RPC_TRANSPORT=rdma, but RDMA is not available: Unix sockets do not support RDMA')


def test_log_has_no_control_characters_or_forged_lines(lab):
    socket = lab.folder / 'x\x1b[2J\nerror: forged'
    done = lab.run(['llama-bench', '--list-devices'], env={'GGML_RPC_SERVERS': f'unix:{socket}', 'GGML_RPC_DEBUG': 1})
    assert done.lines(r'unix:.*x\?\[2J\?error: forged') and '\x1b[2J' not in done.log, done.log
    assert not done.lines('^error: forged')


# --- names and order --------------------------------------------------------------------------------------------------

def registered(lab, endpoints=(), **options):
    """The devices of ggml's registry in order, with their names."""
    done = lab.run([sys.executable, Path(__file__).parent / 'registered.py', *endpoints], **options)
    return json.loads(done.out.splitlines()[-1])


def test_names_match_stock(lab):
    """Names of devices, back-ends, buffer types and buffers of two servers, one with two devices."""
    endpoints = [lab.server().endpoint, lab.server('-d', 'CPU,CPU').endpoint]
    stock = registered(lab, endpoints, ours=False)
    assert [device['buffer type'] for device in stock] == ['CPU', f'RPC0[{endpoints[0]}]', f'RPC0[{endpoints[1]}]',
                                                           f'RPC1[{endpoints[1]}]']
    assert registered(lab, endpoints) == stock


def test_tensors_are_placed_by_the_names_of_buffer_types(lab):
    """-ot with the name in the load log."""
    servers = [lab.server(), lab.server()]
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 2, '-no-cnv', '-t', 1, '--no-warmup',
                    *lab.where(servers), '-ot', rf'blk\..*\.ffn_.*=RPC0[{servers[1].endpoint}]', '-ts', '1,0', '-v'])
    assert done.lines(rf'ffn_.* buffer type overridden to RPC0\[{servers[1].endpoint}\]'), done.log
    for server in servers:
        assert done.lines(rf'RPC0\[{server.endpoint}\] model buffer size'), done.log


def test_servers_from_the_environment_come_before_the_cpu(lab):
    """ggml's scheduler requires the CPU last. The plug-in of GGML_BACKEND_PATH is loaded after it, an installed one before."""
    server = lab.server()
    env = {'GGML_RPC_SERVERS': server.endpoint}
    assert [device['device'] for device in registered(lab, env=env)] == ['RPC0', 'CPU']
    folder = lab.folder / 'here'
    folder.mkdir()
    shutil.copy(PLUGIN, folder)
    env['LD_PRELOAD'] = PRELOAD
    assert [device['device'] for device in registered(lab, ours=False, env=env, cwd=folder)] == ['RPC0', 'CPU']


@pytest.mark.skipif(TEST_OPT is None, reason='test-opt is not installed (Debian: llama.cpp-tests)')
def test_optimizers_on_a_server_from_the_environment(lab):
    """test-opt passes all devices to ggml's scheduler in the registry's order."""
    server = lab.server()
    done = lab.run([TEST_OPT], env={'GGML_RPC_SERVERS': server.endpoint})
    assert done.lines(r'Backend RPC0.* adamw: .*OK') and done.lines(r'Backend CPU adamw: .*OK'), done.log
    assert server.served() > 0


def test_unreachable_server_is_logged_in_a_frame(lab):
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-t', 1, '-ngl', 99,
                    '--rpc', '127.0.0.1:1'])
    assert len(done.lines(r'\*{100}$')) == 2, done.log
    assert done.lines('WITHOUT the devices of this server') and done.lines('GGML_RPC_REQUIRE=1')
    line, = done.lines('127.0.0.1:1')
    assert line.count('127.0.0.1:1') == 1, 'the endpoint appears once'
    assert done.lines('What to do: check that rpc-server runs on this machine with -p 1')


@pytest.mark.parametrize('named_by', ['option', 'environment'])
def test_unreachable_required_server_ends_the_program(lab, named_by):
    good = lab.server()
    endpoints = f'{good.endpoint},127.0.0.1:1'
    where = {'GGML_RPC_SERVERS': endpoints} if named_by == 'environment' else {}
    argv = ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-t', 1, '-ngl', 99]
    if named_by == 'option':
        argv += ['--rpc', endpoints]
    done = lab.run(argv, env={'GGML_RPC_REQUIRE': 1, **where}, rc=75)
    line, = done.lines('127.0.0.1:1')
    assert line.startswith('error: ') and 'Connection refused' in line and line.endswith('ends with code 75')
    assert done.out == ''


def test_reachable_required_server(lab):
    server = lab.server()
    same(lab.logits([server], env={'GGML_RPC_REQUIRE': 1}), local_logits(lab))


WRONG = {
    'GGML_RPC_POLL_US': ('abc', 'a whole number from 0 to 1000000; using the default, learnt, at most 300'),
    'GGML_RPC_TIMEOUT_S': ('0', 'a whole number from 1 to 604800; using the default, 300'),
    'GGML_RPC_CONNECT_TIMEOUT_S': ('1.5', 'a whole number from 1 to 3600; using the default, 10'),
    'GGML_RPC_RECONNECT_S': ('-1', 'a whole number from 0 to 86400; using the default, 60'),
    'GGML_RPC_SHM': ('maybe', 'auto or off; using the default, auto'),
    'GGML_RPC_DIALECT': ('bogus', 'native or stock; using the default, native'),
    'GGML_RPC_TRANSPORT': ('TCP', 'auto, tcp or rdma; using the default, auto'),
    'GGML_RPC_ON_LOSS': ('stop', 'fail or exit; using the default, fail'),
    'GGML_RPC_REQUIRE': ('please', '0 or 1; using the default, 0'),
    'GGML_RPC_DEBUG': ('2', '0 or 1; using the default, 0'),
}


def test_invalid_environment_values_are_logged_once_by_each_side(lab):
    env = {name: value for name, (value, _) in WRONG.items()}
    server = lab.server(env=env)
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-t', 1, *lab.where([server])],
                   env=env)
    server.wait_idle()
    for name, (value, accepted) in WRONG.items():
        for log in (done.log, server.log()):
            lines = [line for line in log.splitlines() if f'{name}=' in line]
            assert len(lines) == 1 and f'{name}="{value}" is not {accepted}' in lines[0], (name, lines)


# --- many devices -----------------------------------------------------------------------------------------------------

def test_more_devices_than_ggml_accepts_log_a_warning(lab):
    """ggml's scheduler accepts 15 devices and the CPU; -sm tensor combines any number into one back-end."""
    few, many = lab.server('-d', ','.join(['CPU'] * 15)), lab.server('-d', ','.join(['CPU'] * 16))
    warning = 'more than 15 devices are registered.*-dev'
    listed, done = lab.devices(few.endpoint)
    assert len(listed) == 15 and not done.lines(warning)
    listed, done = lab.devices(many.endpoint)
    assert len(listed) == 16 and len(done.lines(warning)) == 1, done.log
    listed, done = lab.devices(f'{many.endpoint},{few.endpoint}')
    assert len(listed) == 31 and len(done.lines(warning)) == 1, done.log
    lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 2, '-no-cnv', '-t', 1, '--no-warmup',
             *lab.where([many]), '-dev', 'RPC0,RPC15'])


def descriptors(llama):
    """Open descriptors of a llama-server without its HTTP connections, which it closes some time after the response."""
    http = {fields[9] for line in Path(f'/proc/{llama.pid}/net/tcp').read_text().splitlines()[1:]
            if int((fields := line.split())[1].split(':')[1], 16) == llama.port}
    links = []
    for descriptor in Path(f'/proc/{llama.pid}/fd').iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed after it was listed
            links.append(os.readlink(descriptor))
    return len([link for link in links if link[len('socket:['):-1] not in http])


def test_descriptors_per_server(lab):
    """The session's socket, its lifeline, and an eventfd that wakes a waiting thread."""
    def with_servers(servers):
        llama = lab.llama_server(servers)
        count = descriptors(llama)
        llama.kill()
        return count
    servers = [lab.server() for _ in range(3)]
    assert with_servers(servers) - with_servers(servers[:1]) <= 2 * 3
