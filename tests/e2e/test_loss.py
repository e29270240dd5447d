"""A server is lost between two requests, or in the middle of one: no program gets a result that looks correct."""
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
    """Unread bytes of each connection of its port. A process that was killed may be gone before its sockets are."""
    port = int(server.endpoint.rpartition(':')[2])
    lines = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()[1:]]
    return [int(fields[4].partition(':')[2], 16) for fields in lines
            if int(fields[1].partition(':')[2], 16) == port and fields[3] == '01']


def kill_worker(server):
    """As the kernel does when memory runs out."""
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)


def embedding(llama):
    return llama.request('/embedding', {'content': PROMPT}, timeout=60 * SLOW)


def first_token(llama):
    return llama.request('/completion', completion(PROMPT, 1), timeout=60 * SLOW)


@pytest.mark.parametrize('request_of', [embedding, first_token])
@pytest.mark.parametrize('lost', ['server', 'worker'])
@pytest.mark.parametrize('doomed', [0, 1])
@pytest.mark.parametrize('pause', [0, 2.5], ids=['at once', 'later'])
def test_no_result_after_a_server_is_lost(lab, request_of, lost, doomed, pause):
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, more=EMBEDDING if request_of is embedding else [])
    for _ in range(2):  # the same graph again: its launch is held back for the read
        assert request_of(llama)[0] == 200
    if lost == 'server':
        servers[doomed].kill()
    else:
        kill_worker(servers[doomed])
    eventually(lambda: not sockets(servers[doomed]), 'its connections are closed')
    time.sleep(pause)  # the connection is looked at once a second while nobody uses it
    for _ in range(2):
        status, said = request_of(llama)
        assert status == 500, said
    assert llama.stop() == 0  # llama-server logs in a thread of its own
    assert llama.count(f'RPC server {servers[doomed].endpoint} is lost: ') == 1


def test_no_result_after_a_stock_server_is_lost(lab):
    for doomed in range(2):
        servers = [lab.stock_server(), lab.stock_server()]
        llama = lab.llama_server(servers, more=EMBEDDING)
        assert embedding(llama)[0] == 200
        servers[doomed].kill()
        for _ in range(2):
            assert embedding(llama)[0] == 500
        llama.kill()


def test_a_loss_is_logged_while_the_program_is_idle(lab):
    server = lab.server()
    llama = lab.llama_server([server])
    assert first_token(llama)[0] == 200
    os.kill(server.workers()[0], signal.SIGKILL)
    llama.wait_for(rf'RPC server {server.endpoint} is lost: .*load the model again once the server is back')
    assert first_token(llama)[0] == 500
    assert llama.count('is lost') == 1


def test_no_result_from_a_server_that_froze_while_idle(lab):
    """It may as well be switched off: nothing closes the connection."""
    server = lab.server()
    llama = lab.llama_server([server], more=EMBEDDING, env={'GGML_RPC_TIMEOUT_S': 2})
    assert embedding(llama)[0] == 200
    time.sleep(1.5)
    for worker in server.workers():
        os.kill(worker, signal.SIGSTOP)
    assert embedding(llama)[0] == 500


def test_memory_of_a_lost_server_is_not_computed_with(lab):
    """By a back-end that is newer than the loss and has a session of its own. Numbers of rows that cannot be read are zero:
    kernels do not check them."""
    server = lab.server()
    program = lab.start('raw_ggml.py', [sys.executable, Path(__file__).parent / 'raw_ggml.py', 'lost'],
                        env={'GGML_RPC_SERVERS': server.endpoint})
    program.wait_for('ready')
    os.kill(server.workers()[0], signal.SIGKILL)  # the other one may still be starting
    eventually(lambda: not sockets(server), 'its connections are closed')
    program.signal(signal.SIGUSR1)
    said = json.loads(lab.expect_exit(program).out.splitlines()[-1])
    assert said['computed'] == 0 and said['lost'] != 0
    assert said['numbers'] == [0xff] and said['rows'] == [0]
    assert said['newer'] != 0 and program.count('the graph uses memory of an RPC server that is lost') == 1


def test_a_long_silence_is_noted(lab):
    """A server that was stopped looks like one that computes for long."""
    server = lab.server()
    llama = lab.llama_server([server])
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    request = InBackground(first_token, llama)
    llama.wait_for(rf'RPC server {server.endpoint}: no progress for 10 s')
    os.kill(worker, signal.SIGCONT)
    assert request.result(60 * SLOW)[0] == 200
    llama.wait_for(rf'RPC server {server.endpoint}: goes on after 1\d\.\d s without progress')


def in_mid_request(llama, server, request_of):
    """(status, answer) of a request whose worker is killed while it computes."""
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    request = InBackground(request_of, llama)
    eventually(lambda: any(sockets(server)), 'the request has come to the server')
    os.kill(worker, signal.SIGKILL)
    return request.result(60 * SLOW)


@pytest.mark.parametrize('doomed,count', [(0, 2), (1, 2), (0, 3), (1, 3)])
def test_embedding_in_flight_fails(lab, doomed, count):
    """With three servers, the last one computes what the one in the middle passes on."""
    servers = [lab.server() for _ in range(count)]
    llama = lab.llama_server(servers, more=EMBEDDING)
    assert embedding(llama)[0] == 200
    status, said = in_mid_request(llama, servers[doomed], embedding)
    assert status == 500, said
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
    eventually(lambda: any(sockets(servers[doomed])), 'the next token has come to the server')
    os.kill(worker, signal.SIGKILL)
    assert client.wait() == 1
    text = client.out().rstrip('\n')
    assert len(text) > 100 and whole.startswith(text), (text, whole)


@pytest.mark.parametrize('documents', [['the spirit of God'], ['the spirit of God', 'and the earth', 'was without form']])
def test_reranking_yields_no_numbers_after_a_loss(lab, documents):
    """What the scribe model says of relevance means nothing, but llama-server treats it as any other score."""
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, more=['--rerank'])

    def rerank(llama):
        return llama.request('/rerank', {'query': 'God', 'documents': documents})
    assert rerank(llama)[0] == 200
    status, said = in_mid_request(llama, servers[0], rerank)
    assert status == 500, said
    assert rerank(llama)[0] == 500


@pytest.mark.parametrize('tokens', [1, 8])
@pytest.mark.parametrize('doomed', [0, 1])
def test_completion_in_flight_fails(lab, doomed, tokens):
    """Also for one token, whose result llama.cpp reads without being able to learn of a failure."""
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers)
    assert first_token(llama)[0] == 200
    status, said = in_mid_request(llama, servers[doomed],
                                  lambda llama: llama.request('/completion', completion(PROMPT, tokens)))
    assert status == 500, said


# --- GGML_RPC_ON_LOSS=exit -------------------------------------------------------------------------------------------

def ended_by_loss(llama, server):
    """One line, and the code that a service manager restarts a program for."""
    assert llama.wait(30 * SLOW) == 75
    line, = [line for line in llama.err().splitlines() if 'is lost' in line]
    assert line.startswith(f'error: RPC server {server.endpoint} is lost: ') and line.endswith('ends with code 75')


@pytest.mark.parametrize('when', ['idle', 'in flight'])
@pytest.mark.parametrize('request_of', [embedding, first_token])
def test_a_loss_ends_a_program_that_asks_for_it(lab, when, request_of):
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, more=EMBEDDING if request_of is embedding else [], env={'GGML_RPC_ON_LOSS': 'exit'})
    assert request_of(llama)[0] == 200
    if when == 'idle':
        kill_worker(servers[0])
    else:
        status, said = in_mid_request(llama, servers[0], request_of)
        assert status == 0, said
    ended_by_loss(llama, servers[0])


def test_the_end_of_a_stock_server_ends_a_program_that_asks_for_it(lab):
    server = lab.stock_server()
    llama = lab.llama_server([server], env={'GGML_RPC_ON_LOSS': 'exit'})
    assert first_token(llama)[0] == 200
    server.kill()
    assert first_token(llama)[0] == 0
    ended_by_loss(llama, server)


def test_a_program_that_is_done_does_not_end_by_a_loss(lab):
    server = lab.server()
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-t', 1, '--temp', 0,
                    *lab.where([server])], env={'GGML_RPC_ON_LOSS': 'exit'})
    assert local_text(lab, [PROMPT], 4)[0] in done.out
