"""A server is lost between two requests, or during one: no program receives a result that looks correct."""
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness import local_text
from processes import InBackground, completion
from system import MODEL, PROMPT, SANITIZE, eventually

SLOW = 4 if SANITIZE else 1
EMBEDDING = ['--embedding', '--pooling', 'mean']


def sockets(server):
    """Unread bytes of each connection to the server's port. Sockets may outlive a killed process for a moment."""
    port = int(server.endpoint.rpartition(':')[2])
    lines = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()[1:]]
    return [int(fields[4].partition(':')[2], 16) for fields in lines
            if int(fields[1].partition(':')[2], 16) == port and fields[3] == '01']


def kill_worker(server):
    """Kills the workers with SIGKILL, as the kernel does when memory runs out."""
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)


def embedding(llama):
    return llama.request('/embedding', {'content': PROMPT}, timeout=60 * SLOW)


def first_token(llama):
    return llama.request('/completion', completion(PROMPT, 1), timeout=60 * SLOW)


@pytest.mark.parametrize('request_of', [embedding, first_token])
@pytest.mark.parametrize('lost', ['server', 'worker'])
@pytest.mark.parametrize('doomed', [0, 1])
@pytest.mark.parametrize('pause', [0, 2.5], ids=['immediately', 'later'])
def test_no_result_after_loss(lab, request_of, lost, doomed, pause):
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, more=EMBEDDING if request_of is embedding else [])
    for _ in range(2):  # the second launch of the graph is held back for the read
        assert request_of(llama)[0] == 200
    if lost == 'server':
        servers[doomed].kill()
    else:
        kill_worker(servers[doomed])
    eventually(lambda: not sockets(servers[doomed]), 'its connections are closed')
    time.sleep(pause)  # an idle connection is checked once a second
    for _ in range(2):
        status, body = request_of(llama)
        assert status == 500, body
    assert llama.stop() == 0  # llama-server logs in a thread of its own
    assert llama.count(f'RPC server {servers[doomed].endpoint} is lost: ') == 1


def test_no_result_after_loss_of_a_stock_server(lab):
    for doomed in range(2):
        servers = [lab.stock_server(), lab.stock_server()]
        llama = lab.llama_server(servers, more=EMBEDDING)
        assert embedding(llama)[0] == 200
        servers[doomed].kill()
        for _ in range(2):
            assert embedding(llama)[0] == 500
        llama.kill()


def test_loss_is_logged_while_the_program_is_idle(lab):
    server = lab.server()
    llama = lab.llama_server([server])
    assert first_token(llama)[0] == 200
    os.kill(server.workers()[0], signal.SIGKILL)
    llama.wait_for(rf'RPC server {server.endpoint} is lost: .*load the model again once the server is back')
    assert first_token(llama)[0] == 500
    assert llama.count('is lost') == 1


def test_no_result_from_a_server_that_froze_while_idle(lab):
    """A machine that was switched off looks the same: nothing closes the connection."""
    server = lab.server()
    llama = lab.llama_server([server], more=EMBEDDING, env={'GGML_RPC_TIMEOUT_S': 2})
    assert embedding(llama)[0] == 200
    time.sleep(1.5)
    for worker in server.workers():
        os.kill(worker, signal.SIGSTOP)
    assert embedding(llama)[0] == 500


def test_graph_on_lost_memory_fails(lab):
    """Also on a back-end that was made after the loss, with a session of its own. Row indices that cannot be read are 0,
    because kernels do not check them."""
    server = lab.server()
    program = lab.start('raw_ggml.py', [sys.executable, Path(__file__).parent / 'raw_ggml.py', 'lost'],
                        env={'GGML_RPC_SERVERS': server.endpoint})
    program.wait_for('ready')
    os.kill(server.workers()[0], signal.SIGKILL)  # the other one may still be starting
    eventually(lambda: not sockets(server), 'its connections are closed')
    program.signal(signal.SIGUSR1)
    out = json.loads(lab.expect_exit(program).out.splitlines()[-1])
    assert out['computed'] == 0 and out['lost'] != 0
    assert out['numbers'] == [0xff] and out['rows'] == [0]
    assert out['newer'] != 0 and program.count('the graph uses memory of an RPC server that is lost') == 1


def test_stall_is_logged(lab):
    """A stopped server looks like one with a long computation."""
    server = lab.server()
    llama = lab.llama_server([server])
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    request = InBackground(first_token, llama)
    llama.wait_for(rf'RPC server {server.endpoint}: no progress for 10 s')
    os.kill(worker, signal.SIGCONT)
    assert request.result(60 * SLOW)[0] == 200
    llama.wait_for(rf'RPC server {server.endpoint}: progress again after 1\d\.\d s')


def lose_in_flight(llama, server, request_of):
    """Kills the worker while a request is in flight. Returns the request's status and body."""
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    request = InBackground(request_of, llama)
    eventually(lambda: any(sockets(server)), 'the request has arrived at the server')
    os.kill(worker, signal.SIGKILL)
    return request.result(60 * SLOW)


@pytest.mark.parametrize('doomed,count', [(0, 2), (1, 2), (0, 3), (1, 3)])
def test_embedding_in_flight_fails(lab, doomed, count):
    """With three servers, the last one computes with the results that the second one pushes."""
    servers = [lab.server() for _ in range(count)]
    llama = lab.llama_server(servers, more=EMBEDDING)
    assert embedding(llama)[0] == 200
    status, body = lose_in_flight(llama, servers[doomed], embedding)
    assert status == 500, body
    assert embedding(llama)[0] == 500


@pytest.mark.parametrize('doomed', [0, 1])
def test_generated_text_ends_before_the_loss(lab, doomed):
    argv = ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 400, '-c', 512, '--ignore-eos', '--temp', 0, '-t', 1,
            '-no-cnv', '--no-warmup', '--no-display-prompt', '--simple-io']
    servers = [lab.server(), lab.server()]
    whole = lab.run([*argv, *lab.where(servers)]).out
    client = lab.start('llama-completion', [*argv, *lab.where(servers)])
    eventually(lambda: len(client.out()) > 100, 'llama-completion generates text')
    worker = servers[doomed].workers()[0]
    os.kill(worker, signal.SIGSTOP)
    eventually(lambda: any(sockets(servers[doomed])), 'the next token has arrived at the server')
    os.kill(worker, signal.SIGKILL)
    assert client.wait() == 1
    text = client.out().rstrip('\n')
    assert len(text) > 100 and whole.startswith(text), (text, whole)


@pytest.mark.parametrize('documents', [['the spirit of God'], ['the spirit of God', 'and the earth', 'was without form']])
def test_reranking_in_flight_fails(lab, documents):
    """The scribe model's scores are meaningless, but llama-server treats them like any others."""
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, more=['--rerank'])

    def rerank(llama):
        return llama.request('/rerank', {'query': 'God', 'documents': documents})
    assert rerank(llama)[0] == 200
    status, body = lose_in_flight(llama, servers[0], rerank)
    assert status == 500, body
    assert rerank(llama)[0] == 500


@pytest.mark.parametrize('tokens', [1, 8])
@pytest.mark.parametrize('doomed', [0, 1])
def test_completion_in_flight_fails(lab, doomed, tokens):
    """Also for a single token, whose result llama.cpp reads with a function that cannot fail."""
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers)
    assert first_token(llama)[0] == 200
    status, body = lose_in_flight(llama, servers[doomed],
                                  lambda llama: llama.request('/completion', completion(PROMPT, tokens)))
    assert status == 500, body


# --- GGML_RPC_ON_LOSS=exit -------------------------------------------------------------------------------------------

def expect_exit_by_loss(llama, server):
    """One line, and the exit code on which a service manager restarts a program."""
    assert llama.wait(30 * SLOW) == 75
    line, = [line for line in llama.err().splitlines() if 'is lost' in line]
    assert line.startswith(f'error: RPC server {server.endpoint} is lost: ') and line.endswith('ends with code 75')


@pytest.mark.parametrize('when', ['idle', 'in flight'])
@pytest.mark.parametrize('request_of', [embedding, first_token])
def test_on_loss_exit(lab, when, request_of):
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, more=EMBEDDING if request_of is embedding else [], env={'GGML_RPC_ON_LOSS': 'exit'})
    assert request_of(llama)[0] == 200
    if when == 'idle':
        kill_worker(servers[0])
    else:
        status, body = lose_in_flight(llama, servers[0], request_of)
        assert status == 0, body
    expect_exit_by_loss(llama, servers[0])


def test_on_loss_exit_with_a_stock_server(lab):
    server = lab.stock_server()
    llama = lab.llama_server([server], env={'GGML_RPC_ON_LOSS': 'exit'})
    assert first_token(llama)[0] == 200
    server.kill()
    assert first_token(llama)[0] == 0
    expect_exit_by_loss(llama, server)


def test_on_loss_exit_ignores_the_end_of_sessions(lab):
    server = lab.server()
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-t', 1, '--temp', 0,
                    *lab.where([server])], env={'GGML_RPC_ON_LOSS': 'exit'})
    assert local_text(lab, [PROMPT], 4)[0] in done.out
