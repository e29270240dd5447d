"""Workers give up what they do not need before they hear their client."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import local_logits, same
from processes import Server
from system import MAKE_MODELS, MODEL, RPC_SERVER, SANITIZE, eventually, landlock_version


def status(pid):
    return dict(line.split(':\t', 1) for line in Path(f'/proc/{pid}/status').read_text().splitlines())


def has_landlock():
    return landlock_version() >= 2


needs_filters = pytest.mark.skipif('Seccomp' not in status('self'), reason='this kernel has no seccomp filters')


def banner_line(server):
    return server.wait_for(r'  confinement    : (.*)\n').group(1)


@needs_filters
def test_spare_and_serving_workers_are_confined(lab):
    server = lab.server()
    client = lab.endless_completion([server])
    eventually(lambda: len(server.workers()) == 2 and all(
        status(worker)['Seccomp'] == '2' for worker in server.workers()), 'both workers are confined')
    for worker in server.workers():
        assert status(worker)['NoNewPrivs'] == '1'
        assert 'Max core file size        0                    0' in Path(f'/proc/{worker}/limits').read_text()
        assert int(status(worker)['CapPrm'], 16) == 0
        assert int(Path(f'/proc/{worker}/oom_score_adj').read_text()) >= 500
    assert int(Path(f'/proc/{server.pid}/oom_score_adj').read_text()) == int(Path('/proc/self/oom_score_adj').read_text())
    assert status(server.pid)['Seccomp'] == status('self')['Seccomp']
    client.kill()


def test_workers_inherit_nothing_that_is_not_theirs(lab):
    """Descriptors that were open where the server was started, its terminal's input, and secrets of its environment."""
    secret = lab.folder / 'secret'
    secret.write_text('secret')
    server = lab.start('rpc-server', ['sh', '-c', f'exec 8<{secret} 9<{secret}; exec "$@"', 'sh', RPC_SERVER, '-p', 0,
                                      '-t', 1], env={'HF_TOKEN': 'secret', 'MY_API_KEY': 'secret', 'PLAIN': 'kept'},
                       tool=False, kind=Server)
    server.wait_for(r'  sessions       : .*\n')
    worker, = server.workers()
    links = {int(fd.name): os.readlink(fd) for fd in Path(f'/proc/{worker}/fd').iterdir()}
    assert links[0] == '/dev/null' and str(secret) not in links.values()
    assert len([fd for fd in links if fd > 2]) <= 4, links
    environment = Path(f'/proc/{worker}/environ').read_bytes()
    assert b'PLAIN=kept' in environment and b'HF_TOKEN' not in environment and b'MY_API_KEY' not in environment


def open_files(pid):
    """The soft limit and the hard one."""
    limits = re.search(r'Max open files +(\d+) +(\d+)', Path(f'/proc/{pid}/limits').read_text())
    return int(limits[1]), int(limits[2])


def test_a_worker_cannot_use_up_the_descriptors_that_may_be_sent(lab):
    """Those that nobody has received yet count for the user. One message more than a worker's limit has 253."""
    server = lab.server()
    worker, = server.workers()
    soft, hard = open_files(worker)
    assert soft == hard and open_files(server.pid)[0] >= hard + 253 + 16 * 20
    assert hard >= 256


def test_the_server_says_what_is_in_force(lab):
    line = banner_line(lab.server())
    assert line.startswith('no_new_privs, no ptrace')
    assert (', seccomp' if 'Seccomp' in status('self') else '; no seccomp: ') in line
    if not has_landlock():
        assert '; no Landlock: ' in line
    else:
        assert 'Landlock (reads: own files only; writes: none' in line and 'no Landlock' not in line
    if not SANITIZE:
        assert 'threads' not in line


def test_the_store_is_the_only_place_to_write(lab):
    if not has_landlock():
        pytest.skip('this kernel has no Landlock')
    assert 'writes: cache only' in banner_line(lab.server('-c', '--cache-dir', lab.folder / 'cache'))


def test_without_confinement(lab):
    server = lab.server('--no-confinement')
    assert banner_line(server) == 'none (--no-confinement)'
    assert [status(worker).get('Seccomp', '0') for worker in server.workers()] == [status('self').get('Seccomp', '0')]
    same(lab.logits([server]), local_logits(lab))


def test_a_session_may_have_so_much_memory(lab):
    server = lab.server('--max-memory', '1M')
    assert re.search(r'sessions       : at most 16 at once, 15 of one address, with at most 1(\.0)? MiB of memory each', server.out())
    llama = lab.start('llama-completion', ['llama-completion', '-m', MODEL, '-p', 'a', '-n', 2, '-no-cnv', '-fit',
                                           'off', '-t', 1, *lab.where([server])])
    lab.expect_exit(llama, rc=1)
    server.wait_for('ALLOC_BUFFER refused: .*--max-memory')

    def is_limited(worker):
        return re.search(r'Max data size\s+\d+', Path(f'/proc/{worker}/limits').read_text())
    eventually(lambda: [is_limited(worker) is not None for worker in server.workers()] == [True], 'the spare is limited')
    server.wait_idle()


def test_fit_stays_within_what_a_session_may_have(lab, tmp_path):
    model = tmp_path / 'model.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', model, '--layers', '12', '--d', '256', '--heads', '4',
                    '--kv-heads', '4', '--ff', '1024', '--vocab', '1000', '--type', 'f16'], check=True, timeout=60)
    server = lab.server('-d', 'CPU,CPU', '--max-memory', '24M')
    lab.run(['llama-completion', '-m', model, '-p', 'a', '-n', 2, '-c', 256, '-no-cnv', '-t', 1, '-fit', 'on', '-fitt', 4,
             '--rpc', server.endpoint])
    served = re.findall(r'at most (\d+) MiB of buffers', server.log())
    assert 8 < int(served[-1]) <= 24, 'the model is larger, so it should use much of what it may'


def test_enough_memory_is_enough(lab):
    server = lab.server('--max-memory', '1G')
    same(lab.logits([server]), local_logits(lab))


@pytest.mark.parametrize('size', ['0', '-1', 'much'])
def test_memory_that_is_none(lab, size):
    lab.run([RPC_SERVER, '-p', 0, '--max-memory', size], tool=False, rc=2, timeout=30)

