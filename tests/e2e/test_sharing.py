"""Many users of one server, many servers of one user, and what they cost when nothing happens."""
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stockwire
from harness import local_logits, same
from system import MAKE_MODELS, MODEL, PATIENCE, SANITIZE, cpu_seconds, eventually


def test_three_clients_at_once(lab):
    wanted = local_logits(lab)
    server = lab.server()
    for finish in [lab.start_logits([server], ours=ours) for ours in (True, True, False)]:
        same(finish(), wanted)
    server.wait_idle()
    assert len({session for session, _, launches, _ in server.sessions() if launches > 0}) == 3


def test_a_program_has_one_session(lab):
    """Although it makes back-ends and frees them to ask how much memory a model would need, before it loads the model."""
    server = lab.server()
    done = lab.run(['llama-completion', '-m', MODEL, '-p', 'Then', '-n', 4, '-c', 256, '-no-cnv', '-t', 1, '-lv', 4,
                    *lab.where([server])])
    server.wait_idle()
    assert server.accepted() == 1
    if not SANITIZE:  # those builds have no RDMA
        assert len(done.lines('transport tcp')) == 1, 'not while llama.cpp hides what is logged'


@pytest.mark.parametrize('how', ['silent', 'query'])
def test_a_session_without_memory_makes_room(lab, how):
    """Its program has freed its back-end. It ends if others wait, at the latest after some seconds. That is no loss."""
    server = lab.server('--max-sessions', 1)
    program = lab.start('idle', [sys.executable, Path(__file__).parent / 'idle_backend.py', how],
                        env={'GGML_RPC_SERVERS': server.endpoint, 'GGML_RPC_ON_LOSS': 'exit'})
    program.wait_for('freed')
    same(lab.logits([server]), local_logits(lab))
    assert server.count('others wait') == (1 if how == 'silent' else 0)
    program.signal(signal.SIGUSR1)
    program.wait_for('allocated')
    assert program.wait() == 0
    assert 'is lost' not in program.log(), program.log()


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


def available_memory():
    return int(re.search(r'MemAvailable:\s+(\d+) kB', Path('/proc/meminfo').read_text()).group(1)) * 1024


class Tenant:
    """A client that allocates memory of device 0 and leaves it untouched."""
    def __init__(self, server):
        self.peer = stockwire.greet(server)

    def ask(self, number, payload):
        self.peer.sendall(stockwire.command(number, payload))
        size = struct.unpack('<Q', stockwire.receive(self.peer, 8))[0]
        return struct.unpack('<QQ', stockwire.receive(self.peer, size))

    def alloc(self, size):
        return self.ask(0, struct.pack('<IQ', 0, size))[0]

    def free(self, buffer):
        self.peer.sendall(stockwire.command(4, struct.pack('<Q', buffer)))

    def free_memory(self):
        return self.ask(11, struct.pack('<I', 0))[0]


@pytest.mark.skipif(bool(SANITIZE), reason='sanitizers map terabytes')
def test_what_one_session_was_promised_another_does_not_get(lab):
    """The kernel hands memory out when it is touched: nobody sees from outside what a session has allocated."""
    server = lab.server()
    first, second = Tenant(server), Tenant(server)
    most = available_memory() * 6 // 10
    assert first.free_memory() > most
    buffer = first.alloc(most)
    assert buffer != 0
    assert Tenant(server).free_memory() < most, 'the front door knows'
    assert second.alloc(4096) != 0, 'there is room for some'
    assert first.free_memory() < most and second.free_memory() < most
    assert second.alloc(most) == 0
    server.wait_for("ALLOC_BUFFER refused: .* other sessions were promised")
    first.free(buffer)
    eventually(lambda: second.alloc(most) != 0, 'what was freed can be had')
    second.peer.close()
    eventually(lambda: first.alloc(most) != 0, 'what a session had that ended can be had')


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
