"""Worker processes that cannot start, do not finish loading, or hang: clients learn why, and nobody else waits for them."""
import contextlib
import os
import re
import shutil
import signal
import struct
import time

import pytest

import stockwire
from harness import local_logits, same
from processes import Server
from proxy import Proxy
from stockwire import HELLO, command, greet, is_dropped, receive
from system import RPC_SERVER, eventually, is_alive

ALLOC_BUFFER, GET_DEVICE_MEMORY, DEVICE_COUNT, RECORDS = 0, 11, 15, 133
NATIVE, RESUME = 2, 4


def test_the_program_files_of_a_running_server_may_be_replaced(lab):
    """As every upgrade of a package does."""
    program, worker = lab.folder / 'rpc-server', lab.folder / 'caravan-worker'
    shutil.copy(RPC_SERVER, program)
    shutil.copy(RPC_SERVER.with_name('caravan-worker'), worker)
    server = lab.start('rpc-server', [program, '-p', 0, '-t', 1], tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    for file in program, worker:
        newer = lab.folder / 'newer'
        newer.write_text('#!/bin/sh\nexit 9\n')
        newer.chmod(0o755)
        os.replace(newer, file)
    for _ in range(2):  # the first is served by a worker that was started before
        same(lab.logits([server]), local_logits(lab))
    program.unlink()
    worker.unlink()
    same(lab.logits([server]), local_logits(lab))
    assert server.err() == ''


def hanging_backend(lab):
    """A back-end whose loading never ends once this is a pipe: who opens it waits for its writer."""
    path = lab.folder / 'backend.so'
    return path, {'GGML_BACKEND_PATH': path}


def broken_server(lab):
    """Its workers cannot start any more. Returns it, and a function that mends it."""
    path, env = hanging_backend(lab)
    server = lab.server('--load-timeout', 1, env=env)
    os.mkfifo(path)
    spare, = server.workers()
    os.kill(spare, signal.SIGKILL)
    server.wait_for('cannot start worker processes: a worker process did not load its devices')

    def mend():
        path.unlink()
        server.wait_for('worker processes start again')
    return server, mend


def test_clients_of_a_server_without_workers_learn_why(lab):
    server, mend = broken_server(lab)
    began = time.monotonic()
    seen, done = lab.devices(server.endpoint)
    assert seen == [] and 'this server cannot start worker processes' in done.log, done.log
    with greet(server) as stock:
        stock.sendall(command(DEVICE_COUNT))
        assert is_dropped(stock)
    assert time.monotonic() - began < 20
    mend()
    same(lab.logits([server]), local_logits(lab))


def native_session(server):
    """The beginning of a session as a Caravan client opens it: in records."""
    peer = stockwire.connect(server)
    peer.sendall(command(HELLO, struct.pack('<I8sIQ', 0, b'CARAVAN1', NATIVE | RESUME, 0)))
    assert b'CARAVAN1' in receive(peer, 36)
    peer.sendall(command(RECORDS))
    return peer


def test_a_session_that_no_worker_can_serve_learns_why(lab):
    server, _ = broken_server(lab)
    with native_session(server) as peer:
        said = b''
        while piece := peer.recv(4096):
            said += piece
    assert b'this server cannot start worker processes' in said


def test_one_cause_is_logged_once(lab):
    server, mend = broken_server(lab)
    attempts = set()
    eventually(lambda: attempts.update(server.workers()) or attempts, 'the next attempt begins')
    eventually(lambda: not server.workers(), 'it fails')
    assert server.count('cannot start worker processes') == 1, server.err()
    mend()


# --- workers that hang -----------------------------------------------------------------------------------------------

def test_a_server_whose_first_worker_hangs_ends(lab):
    path, env = hanging_backend(lab)
    os.mkfifo(path)
    done = lab.run([RPC_SERVER, '-p', 0, '-t', 1, '--load-timeout', 1], tool=False, env=env, rc=1, timeout=30)
    assert re.fullmatch(r'error: a worker process did not load its devices within 1 s \(--load-timeout\), and was killed\n',
                        done.err), done.err


def test_a_worker_that_hangs_while_it_loads_starves_nobody(lab):
    path, env = hanging_backend(lab)
    server = lab.server('--load-timeout', 1, env=env)
    os.mkfifo(path)
    with greet(server) as client:
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))  # takes the spare worker; the next one hangs
        server.wait_for(r'error: .*did not load its devices within 1 s', 30)
        receive(client, 24)
        assert 'did not load its devices' in lab.devices(server.endpoint)[1].log
    path.unlink()
    server.wait_for('worker processes start again', 60)
    same(lab.logits([server]), local_logits(lab))
    server.wait_idle()
    assert len(server.workers()) == 1


def test_without_a_spare_worker_clients_are_served_once_workers_start_again(lab):
    path, env = hanging_backend(lab)
    server = lab.server('--no-spare', '--load-timeout', 1, env=env)
    os.mkfifo(path)
    with greet(server) as client:
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))  # takes the first worker
        receive(client, 24)
    assert 'did not load its devices' in lab.devices(server.endpoint)[1].log
    path.unlink()
    server.wait_for('worker processes start again', 60)  # although no client waits
    assert lab.devices(server.endpoint)[0]


def test_a_spare_worker_that_hangs_is_replaced(lab):
    server = lab.server()
    spare, = server.workers()
    os.kill(spare, signal.SIGSTOP)
    assert lab.devices(server.endpoint)[0]  # asks for the memory
    server.wait_for('a worker process that waited for a session did not answer')
    eventually(lambda: not is_alive(spare), 'it is dead')
    same(lab.logits([server]), local_logits(lab))


def test_questions_to_a_worker_that_gets_a_session_are_asked_again(lab):
    """Whether it answers is then its client's business alone."""
    server = lab.server()
    spare, = server.workers()
    os.kill(spare, signal.SIGSTOP)
    with greet(server) as asks, greet(server) as client:
        asks.sendall(command(GET_DEVICE_MEMORY, struct.pack('<I', 0)))
        for _ in range(2):  # the supervisor has looked at both connections
            client.sendall(command(DEVICE_COUNT))
            receive(client, 12)
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
        server.wait_for(r'Accepted client connection')
        receive(asks, 24)
    os.kill(spare, signal.SIGCONT)


@pytest.mark.parametrize('ours', [True, False], ids=['native', 'stock'])
def test_a_session_that_hangs_gives_its_slot_back(lab, ours):
    server = lab.server('--max-sessions', 1, '--session-grace', 1)
    client = lab.endless_completion([server], ours=ours)
    serving, _ = sorted(server.workers())  # the other one is spare
    os.kill(serving, signal.SIGSTOP)
    client.kill()
    server.wait_for(rf'error: session \d+ with \S+ ended: its worker process {serving} hung after its client had left', 30)
    eventually(lambda: not is_alive(serving), 'it is dead')
    same(lab.logits([server]), local_logits(lab))
    server.wait_idle()


def test_a_session_that_was_resumed_is_not_taken_for_one_that_hangs(lab):
    server = lab.server('--session-grace', 1)
    with contextlib.closing(Proxy(server)) as proxy:
        client = lab.endless_completion([proxy])
        for _ in range(3):
            proxy.cut()
            server.wait_for('Connected again')
            time.sleep(0.2)
        time.sleep(13)  # longer than the grace and what a process may take to exit
        produced = len(client.out())
        eventually(lambda: len(client.out()) > produced, 'it goes on')
    assert 'hung' not in server.log()
