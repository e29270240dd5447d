"""What runs out, and who takes long: the others do not notice, and when it is over the server is as before."""
import contextlib
import os
import shutil
import socket
import struct
import sys
import time

import pytest

import stockwire
from attacks import ask_session
from harness import local_logits, same
from processes import Server
from stockwire import command, greet, receive
from system import RPC_SERVER

ALLOC_BUFFER, DEVICE_COUNT = 0, 15


def limited_server(lab, limit):
    """With at most so many open files."""
    server = lab.start('rpc-server', ['prlimit', f'--nofile={limit}', RPC_SERVER, '-p', 0, '-t', 1], tool=False,
                       kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    return server


def cpu_seconds(pid):
    with open(f'/proc/{pid}/stat') as stat:
        fields = stat.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_few_open_files(lab):
    """More strangers than descriptors: they lose their connections to each other, and everybody else is served."""
    expected = local_logits(lab, chunks=16)
    server = limited_server(lab, 48)
    finish = lab.start_logits([server], chunks=16)
    server.wait_for('session 1')
    with contextlib.ExitStack() as strangers:
        for _ in range(100):
            strangers.enter_context(stockwire.connect(server))
        server.wait_for('too many clients without a session: dropped')
        begin = cpu_seconds(server.pid)
        time.sleep(1)
        assert cpu_seconds(server.pid) - begin < 0.5, 'it tries again and again'
        same(lab.logits([server], chunks=16), expected)
        same(finish(), expected)
    assert server.count('(?i)too many open files') == 0
    server.wait_idle(20)


def test_fewer_open_files_than_sessions(lab):
    server = limited_server(lab, 32)
    server.wait_for(r'warning: 32 open files \(ulimit -n\) are enough for 4 sessions')
    same(lab.logits([server]), local_logits(lab))


IN_FLIGHT = """
import array, signal, socket
near, far = socket.socketpair()
for _ in range(3):
    near.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0] * 253))])
print('sent', flush=True)
signal.pause()
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which('setpriv'), reason='needs another user: root is not limited')
def test_a_client_that_cannot_be_handed_over_waits(lab):
    """Another process of the same user has so many descriptors on their way that the kernel lets the server send none."""
    user = ['setpriv', '--reuid=54321', '--regid=54321', '--clear-groups']
    server = lab.start('rpc-server', ['prlimit', '--nofile=256', *user, RPC_SERVER, '-p', 0, '-t', 1], tool=False,
                       kind=Server, cwd='/')
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    other = lab.start('other', [*user, sys.executable, '-c', IN_FLIGHT], tool=False, cwd='/')
    other.wait_for('sent')
    with ask_session(server, '127.0.0.1', wait=False) as peer:
        server.wait_for('waits for a session: .*trying again')
        other.kill()
        receive(peer, 24)
    assert server.count('waits for a session') == 1


def test_a_client_that_does_not_read_its_answers(lab):
    """Its session waits for it. Nobody else does."""
    expected = local_logits(lab)
    server = lab.server()
    with greet(server) as lazy:
        lazy.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 1 << 20)))
        handle, = struct.unpack_from('<Q', receive(lazy, 24), 8)
        lazy.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += lazy.send(command(DEVICE_COUNT) * 1000)
        assert sent > 100_000 and handle
        same(lab.logits([server]), expected)
        begin = cpu_seconds(server.pid)
        time.sleep(1)
        assert cpu_seconds(server.pid) - begin < 0.5
    server.wait_idle(20)


def test_a_client_that_sends_a_byte_at_a_time(lab):
    expected = local_logits(lab)
    server = lab.server()
    with greet(server) as slow:
        message = command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096))
        for byte in message[:-1]:
            slow.sendall(bytes([byte]))
            time.sleep(0.02)
        same(lab.logits([server]), expected)
        slow.sendall(message[-1:])
        receive(slow, 24)  # it is served all the same
    server.wait_idle(20)
