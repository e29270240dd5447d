"""An honest client is served within a second, whatever a peer from another address does to the server."""
import math
import socket
import struct
import sys
import time
from pathlib import Path

import pytest

from attacks import ALLOC_BUFFER, GREETING
from processes import Server
from stockwire import DEVICE_COUNT, answer, command, receive
from system import RPC_SERVER, SANITIZE

SECONDS = 10
EVERY = 0.2
BAR = 1 if not SANITIZE else 5


def served_in(server, address='127.0.0.2'):
    """Seconds from connecting to the answer of HELLO, DEVICE_COUNT and ALLOC_BUFFER; inf: it is not served."""
    host, port = server.endpoint.rsplit(':', 1)
    began = time.monotonic()
    try:
        with socket.create_connection((host, int(port)), timeout=5, source_address=(address, 0)) as peer:
            peer.sendall(GREETING)
            receive(peer, 36)
            peer.sendall(command(DEVICE_COUNT))
            assert receive(peer, 12) == answer(struct.pack('<I', 1))
            peer.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
            receive(peer, 24)
    except (OSError, AssertionError):
        return math.inf
    return time.monotonic() - began


def attacked(lab, names, *options, limit=None):
    """Seconds that each of many honest clients waited while the attacks went on."""
    argv = [RPC_SERVER, '-p', 0, '-t', 1, *options]
    server = lab.start('rpc-server', ['prlimit', f'--nofile={limit}', *argv] if limit else argv, tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    program = Path(__file__).with_name('attacks.py')
    attacks = [lab.start(name, [sys.executable, program, name, server.endpoint, SECONDS + 1], tool=False) for name in names]
    time.sleep(1)  # they have come to their peak
    waited = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        waited.append(served_in(server))
        time.sleep(max(0, EVERY - waited[-1]))
    for attack in attacks:
        assert attack.wait() == 0, attack.log()
    print(f'{names}: {len(waited)} clients, waited {sorted(waited)[len(waited) // 2]:.3f} s (median), {max(waited):.3f} s '
          f'(most), {sum(map(math.isinf, waited))} not served')
    assert served_in(server, '127.0.0.1') < 10 * BAR, 'when it is over the server is as before'
    return waited


@pytest.mark.parametrize('names,options,limit', [
    (['pipelined_questions', 'memory_questions'], [], None),
    (['silent_connections'], [], 64),
    (['flood', 'dripping_greetings'], [], None),
    (['bogus_tokens'], [], None),
    (['idle_sessions', 'queue_that_leaves'], ['--max-sessions', 4], None),
    (['short_sessions'], [], None),
    (['torn_offers', 'own_token'], ['--max-sessions', 8], None),
], ids=lambda value: ','.join(map(str, value)) if isinstance(value, list) else str(value))
def test_attack(lab, names, options, limit):
    assert max(attacked(lab, names, *options, limit=limit)) < BAR
