"""A server whose device is a GPU, with memory of its own and asynchronous calls. It is lavapipe: Vulkan on the CPU."""
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import vulkan
from harness import same
from processes import InBackground
from stockwire import free_memory, is_dropped
from system import BIN, MAKE_MODELS, MODEL, PATIENCE, PROMPT, SANITIZE, TEST_BACKEND_OPS, TEXT, eventually
from test_hostile_graphs import ATTACKS, Session

pytestmark = pytest.mark.skipif(vulkan.DRIVER is None, reason='no lavapipe here')
ENDLESS_GRAPHS = Path(__file__).parent / 'endless_graphs.py'
TWO_GPUS = 'Vulkan0,Vulkan0'
GPU_FIRST = ['-ngl', '99', '-ts', '1,1']


@pytest.mark.parametrize('client,kinds', [('ours', 'ours'), ('ours', 'stock'), ('stock', 'ours'), ('ours', 'ours+ours'),
                                          ('stock', 'ours+ours'), ('ours', 'ours+stock')], ids=lambda value: value)
def test_text_is_that_of_the_local_device(lab, client, kinds):
    servers = [vulkan.server(lab) if kind == 'ours' else vulkan.stock_server(lab) for kind in kinds.split('+')]
    vulkan.same_text(vulkan.text(lab, servers, ours=client == 'ours'), vulkan.local_text(lab))
    for server in servers:
        assert server.is_stock or server.served() > 0


def logits(lab, servers, more=()):
    """Of the local GPU without servers."""
    file = lab.folder / 'logits'
    where = lab.where(servers) if servers else ['-ngl', 99, '--device', 'Vulkan0']
    lab.run(['llama-perplexity', '-m', MODEL, '-f', TEXT, '-c', 64, '-b', 64, '--chunks', 4, '-t', 1, '--no-warmup', *where,
             '--save-all-logits', file, *more], ours=bool(servers), env=None if servers else vulkan.VISIBLE)
    return file.read_bytes()


@pytest.mark.parametrize('more', [['-fa', 'off'], ['-fa', 'on'], ['-fa', 'on', '-ctk', 'q8_0', '-ctv', 'q8_0']],
                         ids=['plain', 'flash attention', 'quantised KV'])
def test_logits_are_those_of_the_local_device(lab, more):
    wanted = logits(lab, [], more)
    same(logits(lab, [vulkan.server(lab)], more), wanted)


def test_servers_add_up_tensors(lab):
    """-sm tensor."""
    servers = [vulkan.server(lab) for _ in range(2)]
    done = lab.run(vulkan.completion(servers, more=['-sm', 'tensor', '-fa', 'on', '-fit', 'off', '-lv', 4]))
    vulkan.same_text(done.out, vulkan.local_text(lab))
    assert 'direct all-reduce over tcp' in done.err
    assert all(server.served() > 0 for server in servers)


def test_gpu_and_cpu_of_one_server(lab):
    server = vulkan.server(lab, devices='Vulkan0,CPU')
    assert [name for name, _ in lab.devices(server.endpoint)[0]] == ['RPC0', 'RPC1']
    text = vulkan.text(lab, [server], more=GPU_FIRST)
    vulkan.same_text(text, vulkan.local_text(lab))
    assert server.served() > 0


def test_two_gpus_of_one_server(lab):
    """Recorded, so threads wait for the devices after each launch."""
    server, trace = vulkan.server(lab, devices=TWO_GPUS), lab.folder / 'trace'
    done = lab.run(vulkan.completion([server], more=GPU_FIRST), env={'GGML_RPC_TRACE': trace})
    vulkan.same_text(done.out, vulkan.local_text(lab))
    computing = {event['tid'] for event in json.loads(trace.read_text())['traceEvents'] if event['name'] == 'COMPUTE'}
    assert len(computing) == 2, computing


@pytest.fixture(scope='module')
def large_model(tmp_path_factory):
    """Its tensors are large enough for the cache."""
    file = tmp_path_factory.mktemp('large') / 'model.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '1', '--d', '512', '--heads', '8',
                    '--kv-heads', '4', '--ff', '4096', '--vocab', '4096', '--type', 'q8_0'], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


@pytest.mark.parametrize('source', ['cache', 'model files'])
def test_second_load_reads_files_of_the_server(lab, large_model, source):
    options = ['-c'] if source == 'cache' else ['--model-dir', large_model.parent]
    server = vulkan.server(lab, *options, env={'LLAMA_CACHE': lab.folder})
    if source == 'model files':
        server.wait_for(r'model-dir: .*\n')
    wanted = vulkan.local_text(lab, model=large_model)
    for _ in range(2):
        vulkan.same_text(vulkan.text(lab, [server], model=large_model), wanted)
    server.wait_idle()
    received = [mib for _, _, launches, mib in server.sessions() if launches > 0]
    assert received[-1] <= 1 and (source == 'model files' or received[0] > 8), server.log()


def test_folders_of_compiled_pipelines_are_made(lab):
    """A confined session cannot create them, and would compile everything again."""
    home = lab.folder / 'home'
    server = vulkan.server(lab, env={'XDG_CACHE_HOME': home, 'MESA_SHADER_CACHE_DIR': None})
    assert len(vulkan.text(lab, [server], n=8)) > 16
    assert any(file.is_file() for file in home.rglob('mesa_shader_cache*/**/*'))
    assert 'compile' not in server.log()


def test_no_folder_for_compiled_pipelines(lab):
    server = vulkan.server(lab, env={'XDG_CACHE_HOME': '/dev/null', 'MESA_SHADER_CACHE_DIR': None})
    server.wait_for('the driver of Vulkan cannot keep the kernels that it compiles .*: each session may compile them again; set')
    assert server.count('cannot keep the kernels') == 1


def seconds_computing(server):
    server.wait_idle()
    return max(float(seconds) for seconds in re.findall(r'([\d.]+) s computing', server.log()))


def test_times_of_the_device(lab):
    """The statistics, the trace and the server's log have the time that the device computed."""
    server, stats, trace = vulkan.server(lab), lab.folder / 'stats', lab.folder / 'trace'
    lab.run(vulkan.completion([server]), env={'GGML_RPC_STATS': stats, 'GGML_RPC_TRACE': trace})
    session, = [session for session in map(json.loads, stats.read_text().splitlines()) if session['launches'] > 0]
    computing = session['served_s']['COMPUTE']
    assert 0 < computing <= session['since_load']['seconds']
    traced = [event['dur'] / 1e6 for event in json.loads(trace.read_text())['traceEvents'] if event['name'] == 'COMPUTE']
    assert 0 < len(traced) <= session['launches']
    assert sum(traced) == pytest.approx(computing, rel=0.05)
    assert seconds_computing(server) == pytest.approx(computing, abs=0.1)  # with one decimal


@pytest.mark.parametrize('devices', ['Vulkan0', TWO_GPUS])
def test_pause_of_the_client_is_no_computing_time(lab, devices):
    server = vulkan.server(lab, devices=devices)
    lab.run([sys.executable, Path(__file__).parent / 'raw_ggml.py', 'pause'], env={'GGML_RPC_SERVERS': server.endpoint})
    assert seconds_computing(server) < 1.5


def pipelines(server):
    """How many compute pipelines each process of a server with libcount-pipelines.so has created."""
    return Counter(re.findall(r'pipelines: \d+ created in process (\d+)', server.log()))


@pytest.mark.skipif(SANITIZE != '', reason='sanitizers must be loaded before other libraries')
def test_second_session_creates_no_pipelines(lab):
    """Its worker has computed the first one's graphs before."""
    server = vulkan.server(lab, env={'LD_PRELOAD': BIN / 'libcount-pipelines.so', 'GGML_RPC_DEBUG': 1})
    first_text = vulkan.text(lab, [server])
    server.wait_for(r'computed \d+ graphs? of earlier sessions')
    before = pipelines(server)
    first, second = before
    assert before[first] > 5 and before[second] > 5, before
    assert vulkan.text(lab, [server]) == first_text
    after = pipelines(server)
    assert after[second] == before[second], (before, after)


def test_client_that_arrives_while_graphs_of_the_last_session_are_computed(lab):
    server = vulkan.server(lab)
    texts = {vulkan.text(lab, [server]) for _ in range(4)}
    assert len(texts) == 1
    assert 'last session' not in server.log()


def test_parallel_requests(lab):
    prompts = [PROMPT, 'And the waters']
    server = vulkan.server(lab)
    llama = lab.llama_server([server])
    alone = [llama.complete(prompt, 16) for prompt in prompts]
    requests = [InBackground(llama.complete, prompt, 16) for prompt in prompts]
    together = [request.result() for request in requests]
    # A batch of two may be rounded otherwise than two batches of one.
    assert all(len(text) > 10 for text in alone + together)
    assert [text[:8] for text in together] == [text[:8] for text in alone]
    llama.stop()
    assert server.served() > 0


def test_client_killed_in_mid_generation(lab):
    """Its worker ends, and with it the device's memory of the session."""
    server = vulkan.server(lab)
    client = lab.endless_completion([server])
    busy = set(server.workers())
    client.popen.send_signal(signal.SIGKILL)
    client.popen.wait(20)
    server.wait_idle(20)
    eventually(lambda: len(busy & set(server.workers())) <= 1, 'the worker ends')
    vulkan.same_text(vulkan.text(lab, [server]), vulkan.local_text(lab))


def test_without_a_spare_worker_an_idle_server_holds_no_memory(lab):
    mib = 256
    server = vulkan.server(lab, '--no-spare')
    vulkan.same_text(vulkan.text(lab, [server]), vulkan.local_text(lab))
    eventually(lambda: not server.workers(), 'the only worker has ended')
    before = free_memory(server)
    client = lab.start('endless_graphs.py', [sys.executable, ENDLESS_GRAPHS, server.endpoint, mib])
    client.wait_for('computing')
    assert before - free_memory(server) > mib << 19
    client.kill()
    server.wait_idle(20)
    eventually(lambda: before - free_memory(server) < mib << 19, 'the memory is free again', 20)


@pytest.mark.extra
def test_a_hundred_clients_killed_while_they_compute(lab):
    """Each holds memory. A leak of a third of it would be noticed."""
    at_once, rounds, mib = 10, 10, 64
    server = vulkan.server(lab)
    before = free_memory(server)
    for _ in range(rounds):
        clients = [lab.start('endless_graphs.py', [sys.executable, ENDLESS_GRAPHS, server.endpoint, mib])
                   for _ in range(at_once)]
        for client in clients:
            client.wait_for('computing')
        for client in clients:
            client.popen.send_signal(signal.SIGKILL)
        for client in clients:
            client.popen.wait(20)
        server.wait_idle(20)
    eventually(lambda: len(server.workers()) <= 1, 'all but the spare worker have ended', 20)
    assert len(server.sessions()) == at_once * rounds
    assert before - free_memory(server) < (at_once * rounds * mib << 20) / 3
    vulkan.same_text(vulkan.text(lab, [server]), vulkan.local_text(lab))


def test_worker_killed_in_mid_generation(lab):
    server = vulkan.server(lab)
    client = lab.endless_completion([server])
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    client.wait()
    assert 'is lost' in client.log()
    vulkan.same_text(vulkan.text(lab, [server]), vulkan.local_text(lab))


def test_memory_limit(lab):
    """A model that needs more than the limit is refused with an error that names it."""
    server = vulkan.server(lab, '--max-memory', '4M')
    done = lab.run(vulkan.completion([server]), rc=None)
    assert done.rc != 0
    server.wait_idle()
    assert 'max-memory' in server.log()


@pytest.mark.parametrize('operators,cases,least', [
    ('ADD,MUL', r'ne=.(16,5,4,3|10,5,4,3|10,5,1,1)', 20),
    ('MUL_MAT', r'type_a=(f32|f16|q8_0|q4_0),type_b=f32,m=16,n=(1|16),k=256', 10),
    ('GET_ROWS', r'type=(f32|f16|q8_0|i32),n=256,m=5,r=4,be1=[17],', 10),
    ('RMS_NORM,SOFT_MAX', r'ne=.(16|32|64),', 10),
    ('ROPE', r'ne_a=.128,(32|40),2,1..*ff=0', 10),
], ids=lambda value: str(value)[:20])
def test_operators(lab, operators, cases, least):
    """The results are right for all that the device supports by itself."""
    def outcomes(device, **options):
        done = lab.run([TEST_BACKEND_OPS, 'test', '-b', device, '-o', operators, '-p', cases], **options)
        passed, total = map(int, re.search(r'(\d+)/(\d+) tests passed', done.log).groups())
        assert passed == total >= least, [line for line in done.log.splitlines() if 'FAIL' in line][:20]
        plain = re.sub(r'\x1b\[[0-9;]*m', '', done.log)
        return sorted(re.findall(r'^ *([A-Z_]+\(.*\): (?:OK|not supported)).*$', plain, re.M))

    server = vulkan.server(lab)
    remote = outcomes('RPC0', env={'GGML_RPC_SERVERS': server.endpoint})
    assert len(remote) >= least
    assert remote == outcomes('Vulkan0', ours=False, env=vulkan.VISIBLE)


# Row numbers are in the device's memory: whether the driver reads beyond a tensor is the business of the process, whose memory
# on the device is its own.
BY_CONTENT = 'row numbers out of range'


def test_hostile_graphs(lab):
    """Invalid shapes and parameters are refused before they reach the device. Other sessions go on."""
    server = vulkan.server(lab)
    client = lab.endless_completion([server])
    for name, (build, reason) in ATTACKS.items():
        session = Session(server)
        with session.peer:
            session.compute(build(session))
            if reason != BY_CONTENT:
                assert is_dropped(session.peer), name
    assert client.running()
    client.kill()
    server.wait_idle()
    for _, reason in ATTACKS.values():
        assert reason == BY_CONTENT or reason in server.log(), reason
    vulkan.same_text(vulkan.text(lab, [server]), vulkan.local_text(lab))
