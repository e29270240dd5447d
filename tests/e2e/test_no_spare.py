"""rpc-server --no-spare: a worker process exists only while a client needs it, and for a few seconds after it has loaded."""
import struct

from harness import local_logits, same
from stockwire import command, free_memory, greet, receive
from system import eventually

ALLOC_BUFFER = 0


def test_workers_start_for_queries_and_sessions_only(lab):
    server = lab.server('--no-spare')
    assert 'spare worker   : none (--no-spare)' in server.log()
    same(lab.logits([server]), local_logits(lab))
    eventually(lambda: not server.workers(), 'no worker is left', 20)
    assert free_memory(server) > 0
    first, = server.workers()
    free_memory(server)
    assert server.workers() in ([first], []), 'another query starts no other worker'
    eventually(lambda: not server.workers(), 'the worker of the queries ends', 20)
    assert lab.devices(server.endpoint)[0]
    assert first not in server.workers()
    same(lab.logits([server]), local_logits(lab))
    server.wait_idle()
    eventually(lambda: not server.workers(), 'no worker is left', 20)


def test_memory_is_reported_as_sessions_hold_it(lab):
    gib = 1 << 30
    server = lab.server('--no-spare')
    before = free_memory(server)
    with greet(server) as client:
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4 * gib)))
        receive(client, 24)
        assert before - free_memory(server) > 2 * gib
    server.wait_idle()
    assert before - free_memory(server) < 2 * gib


def test_several_clients_at_once(lab):
    server = lab.server('--no-spare')
    finishes = [lab.start_logits([server]) for _ in range(3)]
    for finish in finishes:
        same(finish(), local_logits(lab))
    server.wait_idle()
    eventually(lambda: not server.workers(), 'no worker is left', 20)
