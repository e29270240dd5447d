"""What dies or freezes does so alone: no crash of the other side, an end within bounded time, a line that says which."""
import os
import signal
import time

import pytest

from harness import local_logits, same
from processes import InBackground, completion
from system import MODEL, PROMPT, SANITIZE, eventually, is_alive

ROUNDS = 3 if SANITIZE else 10
SLOW = 4 if SANITIZE else 1


def serving_worker(server):
    """Of the two workers beside one session: the other one, a spare, was started later."""
    return eventually(lambda: len(workers := server.workers()) == 2 and workers, 'a worker and a spare one')[0]


# --- the server dies -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', ['ours', 'stock'])
def test_server_killed_in_mid_generation(lab, kind):
    for _ in range(ROUNDS if kind == 'ours' else 2):
        server = lab.server() if kind == 'ours' else lab.stock_server()
        client = lab.endless_completion([server])
        server.kill()
        lab.expect_exit(client, 15 * SLOW, rc=1)


def endless_request(llama):
    """A generation that goes on until something stops it."""
    request = InBackground(llama.request, '/completion', completion(PROMPT, 10000000, ignore_eos=True))
    eventually(lambda: llama.request('/slots')[1][0]['is_processing'], 'a generation runs')
    return request


def test_llama_server_survives_its_rpc_server(lab):
    for _ in range(1 if SANITIZE else 3):
        server = lab.server()
        llama = lab.llama_server([server], more=['--context-shift'])
        request = endless_request(llama)
        server.kill()
        status, said = request.result(15 * SLOW)
        assert status == 500, said
        llama.wait_for(f'RPC server {server.endpoint} is lost: ', 15 * SLOW)
        for _ in range(2):
            status, said = llama.request('/completion', completion(PROMPT, 8), timeout=15 * SLOW)
            assert status == 500, said
        assert llama.request('/health')[0] == 200
        naming = [line for line in llama.log().splitlines() if server.endpoint in line]
        assert sum('is lost' in line for line in naming) == 1
        assert len(naming) <= 3, '\n'.join(naming[:10])


def test_loss_between_requests(lab):
    server = lab.server()
    llama = lab.llama_server([server])
    llama.complete(n=4)
    server.kill()
    for _ in range(2):
        assert llama.request('/completion', completion(PROMPT, 8), timeout=15 * SLOW)[0] == 500
    assert llama.count(f'RPC server {server.endpoint} is lost: ') == 1
    assert llama.stop() == 0


def test_one_of_two_servers_dies(lab):
    servers = [lab.server(), lab.server()]
    for doomed in range(2):
        servers[doomed] = lab.server()
        llama = lab.llama_server(servers, more=['--context-shift'])
        request = endless_request(llama)
        servers[doomed].kill()
        assert request.result(15 * SLOW)[0] == 500
        llama.wait_for(f'RPC server {servers[doomed].endpoint} is lost: ', 15 * SLOW)
        assert llama.stop() == 0
        survivor = servers[1 - doomed]
        survivor.wait_idle(10 * SLOW)
        servers[doomed] = lab.server()
    same(lab.logits(servers), local_logits(lab))


def test_server_dies_while_a_model_is_loaded(lab):
    """From the moment that the session begins; where in the loading this hits varies."""
    for _ in range(3):
        server = lab.server()
        client = lab.start('llama-completion',
                           ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 4, '-no-cnv', '-fit', 'off', '-t', 1,
                            *lab.where([server])])
        server.wait_for('Accepted client connection')
        server.kill()
        lab.expect_exit(client, 30 * SLOW, rc=None)


def test_killed_worker_takes_only_its_session(lab):
    wanted = local_logits(lab)
    server = lab.server()
    doomed = lab.endless_completion([server])
    worker = serving_worker(server)
    other = lab.llama_server([server])
    text = other.complete(n=8)
    os.kill(worker, signal.SIGKILL)
    lab.expect_exit(doomed, 15 * SLOW, rc=1)
    server.wait_for(rf'error: session \d+ with \S+ ended: its worker process {worker} died of signal 9')
    assert other.complete(n=8) == text
    same(lab.logits([server]), wanted)
    assert server.running()


# --- the client dies -------------------------------------------------------------------------------------------------

def test_client_killed_in_mid_generation(lab):
    server = lab.server()
    for _ in range(ROUNDS):
        client = lab.endless_completion([server])
        worker = serving_worker(server)
        client.kill()
        eventually(lambda: not is_alive(worker), 'the worker of a dead client ends', 1.5 * SLOW)
    server.wait_idle(10)
    same(lab.logits([server]), local_logits(lab))
    assert server.count('died of') == 0


def test_frozen_client_holds_up_nobody(lab):
    server = lab.server()
    client = lab.endless_completion([server])
    client.signal(signal.SIGSTOP)
    same(lab.logits([server]), local_logits(lab))
    client.signal(signal.SIGCONT)
    size = len(client.out())
    eventually(lambda: len(client.out()) > size, 'it goes on')


# --- nothing moves ---------------------------------------------------------------------------------------------------

def freeze(lab, server):
    pids = [server.pid, *server.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return lambda: [os.kill(pid, signal.SIGCONT) for pid in pids]


@pytest.mark.parametrize('kind', ['ours', 'stock'])
def test_frozen_server_ends_the_client_in_time(lab, kind):
    server = lab.server() if kind == 'ours' else lab.stock_server()
    llama = lab.llama_server([server], env={'GGML_RPC_TIMEOUT_S': 2})
    llama.complete(n=4)
    thaw = freeze(lab, server)
    try:
        began = time.monotonic()
        assert llama.request('/completion', completion(PROMPT, 8), timeout=30 * SLOW)[0] == 500
        assert 1.5 < time.monotonic() - began < 5 * SLOW
        llama.wait_for(rf'RPC server {server.endpoint} is lost: no progress for 2 s \(GGML_RPC_TIMEOUT_S\)')
    finally:
        thaw()
    llama.kill()
    if kind == 'ours':
        same(lab.logits([server]), local_logits(lab))


def test_server_that_is_frozen_from_the_start_has_no_device(lab):
    server = lab.server()
    thaw = freeze(lab, server)
    try:
        began = time.monotonic()
        listed, done = lab.devices(server.endpoint, env={'GGML_RPC_CONNECT_TIMEOUT_S': 1})
        assert listed == [] and time.monotonic() - began < 6 * SLOW
        assert done.lines(rf'RPC server {server.endpoint}: RPC handshake failed: no reply in time')
    finally:
        thaw()
