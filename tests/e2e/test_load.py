"""How a stock program comes to use our plug-in, and what its user sees."""
import json
import shutil
import sys
from pathlib import Path

import pytest

from harness import local_logits, same
from system import MODEL, PLUGIN, PRELOAD, PROMPT, TEST_OPT


def test_backend_path_displaces_stock(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], env={'GGML_RPC_DEBUG': 1})
    assert done.lines('displacing another RPC back-end')
    assert done.lines(rf'RPC0: {server.endpoint} \(CPU: .*\) \(\d+ MiB, \d+ MiB free\)')


def test_without_it_stock_is_used(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], ours=False, env={'GGML_RPC_DEBUG': 1})
    assert done.lines(rf'RPC0: {server.endpoint} ') and not done.lines('displacing')


def test_wins_by_score_in_the_current_folder(lab):
    """ggml looks for libggml-rpc-*.so in its own folder, the program's and the current one."""
    folder = lab.folder / 'here'
    folder.mkdir()
    shutil.copy(PLUGIN, folder)
    server = lab.server()
    env = {'GGML_RPC_DEBUG': 1, **({'LD_PRELOAD': PRELOAD} if PRELOAD else {})}
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


def test_a_good_and_a_dead_server_in_the_environment(lab):
    server = lab.server()
    done = lab.run(['llama-bench', '--list-devices'],
                   env={'GGML_RPC_SERVERS': f'127.0.0.1:1,{server.endpoint},,nonsense:x'})
    assert done.lines(rf'RPC0: {server.endpoint} ') and not done.lines('RPC1')
    assert done.lines(r'GGML_RPC_SERVERS: .*127\.0\.0\.1:1: Connection refused')
    assert done.lines(r'GGML_RPC_SERVERS: .*nonsense:x')


def test_a_model_on_a_server_from_the_environment(lab):
    server = lab.server()
    same(lab.logits([server], env={'GGML_RPC_SERVERS': server.endpoint}), local_logits(lab))
    assert server.served() > 0


@pytest.mark.parametrize('endpoint,said', [
    ('', 'endpoint "": expected host:port'),
    ('a:b:c', 'a:b:c'),
    ('host:0', '"0" is not a port'),
    ('host:', '"" is not a port'),
    ('127.0.0.1:70000', '"70000" is not a port'),
    ('127.0.0.1:1', '127.0.0.1:1: Connection refused'),
    ('[::1', 'no ] after'),
    ('unix:', 'no path after unix:'),
    ('unix:/no/such/socket', 'unix:/no/such/socket: No such file'),
    ('unix:/' + 'x' * 200, 'longer than'),
    ('no.such.host.invalid:50052', 'cannot resolve host "no.such.host.invalid"'),
], ids=lambda value: value[:20])
def test_endpoint_that_cannot_work(lab, endpoint, said):
    listed, done = lab.devices(endpoint)
    assert listed == []
    assert len([line for line in done.log.splitlines() if said in line]) == 1, done.log


# --- names and order --------------------------------------------------------------------------------------------------

def registered(lab, endpoints=(), **options):
    """The devices in ggml's registry, in order, with their names."""
    done = lab.run([sys.executable, Path(__file__).parent / 'registered.py', *endpoints], **options)
    return json.loads(done.out.splitlines()[-1])


def test_names_are_those_of_stock(lab):
    """Of devices, back-ends, buffer types and buffers, of two servers, one with two devices."""
    endpoints = [lab.server().endpoint, lab.server('-d', 'CPU,CPU').endpoint]
    stock = registered(lab, endpoints, ours=False)
    assert [device['buffer type'] for device in stock] == ['CPU', f'RPC0[{endpoints[0]}]', f'RPC0[{endpoints[1]}]',
                                                           f'RPC1[{endpoints[1]}]']
    assert registered(lab, endpoints) == stock


def test_tensors_are_placed_by_the_names_of_buffer_types(lab):
    """-ot, with the name that the load log shows."""
    servers = [lab.server(), lab.server()]
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 2, '-no-cnv', '-t', 1, '--no-warmup',
                    *lab.where(servers), '-ot', rf'blk\..*\.ffn_.*=RPC0[{servers[1].endpoint}]', '-ts', '1,0', '-v'])
    assert done.lines(rf'ffn_.* buffer type overridden to RPC0\[{servers[1].endpoint}\]'), done.log
    for server in servers:
        assert done.lines(rf'RPC0\[{server.endpoint}\] model buffer size'), done.log


def test_servers_from_the_environment_come_before_the_cpu(lab):
    """ggml's scheduler requires the CPU last. GGML_BACKEND_PATH is loaded after it, an installed plug-in before it."""
    server = lab.server()
    env = {'GGML_RPC_SERVERS': server.endpoint}
    assert [device['device'] for device in registered(lab, env=env)] == ['RPC0', 'CPU']
    folder = lab.folder / 'here'
    folder.mkdir()
    shutil.copy(PLUGIN, folder)
    env |= {'LD_PRELOAD': PRELOAD} if PRELOAD else {}
    assert [device['device'] for device in registered(lab, ours=False, env=env, cwd=folder)] == ['RPC0', 'CPU']


@pytest.mark.skipif(TEST_OPT is None, reason='test-opt is not installed (Debian: llama.cpp-tests)')
def test_optimizers_on_a_server_from_the_environment(lab):
    """test-opt gives ggml's scheduler all devices in the registry's order."""
    server = lab.server()
    done = lab.run([TEST_OPT], env={'GGML_RPC_SERVERS': server.endpoint})
    assert done.lines(r'Backend RPC0.* adamw: .*OK') and done.lines(r'Backend CPU adamw: .*OK'), done.log
    assert server.served() > 0
