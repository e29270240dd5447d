"""Worker processes that cannot start, do not finish loading, or hang: clients learn why, and nobody else waits for them."""
import os
import shutil
import signal
import socket
import struct
import time

import stockwire
from harness import local_logits, same
from processes import Server
from stockwire import HELLO, command, greet, is_dropped
from system import RPC_SERVER

DEVICE_COUNT, RECORDS = 15, 133
NATIVE, RESUME = 2, 4


def test_the_program_file_of_a_running_server_may_be_replaced(lab):
    """As every upgrade of a package does."""
    program = lab.folder / 'rpc-server'
    shutil.copy(RPC_SERVER, program)
    server = lab.start('rpc-server', [program, '-p', 0, '-t', 1], tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    newer = lab.folder / 'newer'
    newer.write_text('#!/bin/sh\nexit 9\n')
    newer.chmod(0o755)
    os.replace(newer, program)
    for _ in range(2):  # the first is served by a worker that was started before
        same(lab.logits([server]), local_logits(lab))
    program.unlink()
    same(lab.logits([server]), local_logits(lab))
    assert server.err() == ''


def broken_server(lab):
    """Its workers cannot start any more. Returns it, and a function that mends it."""
    cache = lab.folder / 'cache'
    server = lab.server('-c', '--cache-dir', cache)
    aside = cache.rename(lab.folder / 'aside')
    cache.write_text('')
    spare, = server.workers()
    os.kill(spare, signal.SIGKILL)
    server.wait_for('cannot start worker processes: weight cache')

    def mend():
        cache.unlink()
        aside.rename(cache)
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
    assert b'CARAVAN1' in peer.recv(36, socket.MSG_WAITALL)
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
    time.sleep(7)  # two more attempts
    assert server.count('cannot start worker processes') == 1, server.err()
    mend()
