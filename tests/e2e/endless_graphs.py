"""A client in the stock dialect that allocates memory and computes until it is killed.

    endless_graphs.py ENDPOINT MIB

Prints "computing" after the first result."""
import struct
import sys
import types

from stockwire import command, receive
from test_hostile_graphs import ADD, ALLOC_BUFFER, F32, Session

session = Session(types.SimpleNamespace(endpoint=sys.argv[1]))
session.peer.settimeout(None)
session.peer.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, int(sys.argv[2]) << 20)))
assert struct.unpack_from('<Q', receive(session.peer, 24), 8) != (0,), 'no memory'
last = first = session.tensor(F32, (1024,))
nodes = []
for _ in range(100):
    last = session.tensor(F32, (1024,), ADD, [first, last])
    nodes.append(last)
session.write(first, struct.pack('<1024f', *[1] * 1024))
said = False
while True:
    session.compute(*nodes)
    result, = struct.unpack_from('<f', session.read(last, 4096), 8)
    assert result == 101, result
    if not said:
        print('computing', flush=True)
        said = True
