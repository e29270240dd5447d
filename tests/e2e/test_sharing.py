"""Many users of one server, many servers of one user, and what they cost when nothing happens."""
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import local_logits, same
from system import MAKE_MODELS, MODEL, PATIENCE, SANITIZE, cpu_seconds


def test_three_clients_at_once(lab):
    wanted = local_logits(lab)
    server = lab.server()
    for finish in [lab.start_logits([server], ours=ours) for ours in (True, True, False)]:
        same(finish(), wanted)
    server.wait_idle()
    assert len({session for session, _, launches, _ in server.sessions() if launches > 0}) == 3


@pytest.fixture
def deep_model(tmp_path):
    file = tmp_path / 'deep.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '16', '--d', '64', '--heads', '4',
                    '--kv-heads', '2', '--ff', '128', '--vocab', '512', '--type', 'f16'], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


@pytest.mark.skipif(bool(SANITIZE), reason='the memory of 30 sanitized processes')
def test_fifteen_servers(lab, deep_model):
    """As many as ggml's scheduler takes beside the CPU (GGML_SCHED_MAX_BACKENDS): with 16 it aborts."""
    servers = [lab.server(name=f'rpc-server-{i}') for i in range(15)]
    same(lab.logits(servers, deep_model), local_logits(lab, deep_model))
    assert all(server.served() > 0 for server in servers)


@pytest.mark.parametrize('freed', ['first', 'second'])
@pytest.mark.parametrize('kind', ['ours', 'stock'])
def test_two_contexts_in_one_process(lab, kind, freed):
    server = lab.server() if kind == 'ours' else lab.stock_server()
    program = Path(__file__).parent / 'two_contexts.py'
    done = lab.run([sys.executable, program, MODEL, freed], env={'GGML_RPC_SERVERS': server.endpoint})
    assert done.out.endswith('equal\n')


def test_idle_costs_nothing(lab):
    server = lab.server()
    llama = lab.llama_server([server])
    llama.complete(n=8)
    watched = [llama.pid, server.pid, *server.workers()]
    assert len(watched) == 4

    def spent():
        before = [cpu_seconds(pid) for pid in watched]
        time.sleep(1)  # the measured time, not a wait for something
        return [cpu_seconds(pid) - start for pid, start in zip(watched, before)]
    spent()  # whatever was still to be tidied up
    assert max(spent()) < 0.05
