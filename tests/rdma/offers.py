"""Clients of rpc-server that offer RDMA and do no more, and one that measures how long such an offer takes. For the lab's
machines; independent of Caravan's own code, after docs/protocol.md.

offers.py SERVER PORT SOURCE silent COUNT [HOW]   offers, then silence until stdin ends
offers.py SERVER PORT SOURCE killed COUNT [HOW]   offers, then this process is killed
offers.py SERVER PORT SOURCE honest                     prints the seconds until the reply to an offer
offers.py SERVER PORT SOURCE gid GID                    prints the reason why an offer with this GID (IPv6 notation) is declined
offers.py SERVER PORT SOURCE length offer|rails SIZE    offers with a payload of so many bytes, and awaits the connection's end
offers.py SERVER PORT SOURCE rails COUNT NUMBER...      offers several queue pairs, with these numbers; prints which the server
                                                        accepts, or the reason why it accepts none
offers.py SERVER PORT SOURCE verdict BITS               the same with one, without its proof, and then this verdict

HOW: plain (the default), admission (requests it first), confirm (also announces to confirm its place in the queue),
asked (requests admission and offers nothing), records (begins a session over TCP, without a command), stock (a stock
client's offer).
"""
import os
import signal
import socket
import struct
import sys
import time

HELLO, RDMA_OFFER, RDMA_VERDICT, ADMISSION, RDMA_RAILS = 14, 128, 129, 135, 136
RDMA, RESUME, QUEUE, CONFIRM, RAILS = 1, 4, 8, 32, 64
RECORDS = 133


def command(number, payload=b''):
    return struct.pack('<BQ', number, len(payload)) + payload


def hello(features):
    return command(HELLO, struct.pack('<I8sIQ', 0, b'CARAVAN1', features, 0))


def queue_pair(source, number, gid=None):
    """One that does not exist."""
    gid = socket.inet_pton(socket.AF_INET6, gid or f'::ffff:{source}')
    return struct.pack('<II16sHBBIII', 0x1000 + number, 77, gid, 0, 0, 0, 1024, 65536, 24)


def offer(source, number, gid=None):
    return command(RDMA_OFFER, queue_pair(source, number, gid))


def receive(peer, size):
    data = b''
    while len(data) < size:
        more = peer.recv(size - len(data))
        assert more, f'the server closed the connection after {len(data)} of {size} bytes'
        data += more
    return data


def connect(server, source):
    return socket.create_connection(server, timeout=60, source_address=(source, 0))


def honest(server, source):
    begin = time.monotonic()
    with connect(server, source) as peer:
        peer.sendall(hello(RDMA | QUEUE | CONFIRM))
        features, = struct.unpack_from('<I', receive(peer, 36), 24)
        peer.sendall(command(ADMISSION))
        while struct.unpack('<QIII', receive(peer, 20))[1] != 0:
            if features & CONFIRM:
                peer.sendall(command(ADMISSION))
        admitted = time.monotonic()
        peer.sendall(offer(source, 0))
        assert receive(peer, 240)[8] == 1, 'declined'
        print(f'{time.monotonic() - begin:.3f} (admitted after {admitted - begin:.3f})')
        peer.sendall(command(RDMA_VERDICT, bytes(1)))


def half_open(how, source, number):
    if how == 'stock':
        gid = socket.inet_pton(socket.AF_INET6, f'::ffff:{source}')
        return command(HELLO, struct.pack('<II16s', 0x1000 + number, 77, gid))
    greeting = {'plain': hello(RDMA), 'records': hello(RESUME | QUEUE), 'confirm': hello(RDMA | QUEUE | CONFIRM)}
    first = b'' if how == 'plain' else command(ADMISSION)
    last = {'asked': b'', 'records': command(RECORDS)}.get(how, offer(source, number))
    return greeting.get(how, hello(RDMA | QUEUE)) + first + last


def declined(server, source, gid):
    with connect(server, source) as peer:
        peer.sendall(hello(RDMA) + offer(source, 0, gid))
        reply = receive(peer, 36 + 240)[36 + 8:]
        print('accepted' if reply[0] else reply[41:].split(b'\0')[0].decode())


def of_length(server, source, kind, size):
    with connect(server, source) as peer:
        peer.sendall(hello(RDMA | RAILS) + command({'offer': RDMA_OFFER, 'rails': RDMA_RAILS}[kind], bytes(size)))
        receive(peer, 36)
        try:
            assert peer.recv(1) == b'', 'the server goes on'
        except ConnectionResetError:  # of bytes that it has not read
            pass


def rails(server, source, count, numbers, verdict=0):
    with connect(server, source) as peer:
        pairs = b''.join(queue_pair(source, number) for number in numbers)
        peer.sendall(hello(RDMA | RAILS) + command(RDMA_RAILS, struct.pack('<I160s', count, pairs)))
        assert struct.unpack_from('<I', receive(peer, 36), 24)[0] & RAILS
        size, accepted, facts, reason = struct.unpack('<QB160s191s', receive(peer, 8 + 352))
        assert size == 352
        print(f'accepted {accepted:b}' if accepted else reason.split(b'\0')[0].decode())
        peer.sendall(command(RDMA_VERDICT, bytes([verdict])))
        if verdict:
            assert peer.recv(1) == b'', 'the server goes on'


def main():
    server, source, kind = (sys.argv[1], int(sys.argv[2])), sys.argv[3], sys.argv[4]
    if kind == 'honest':
        honest(server, source)
        return
    if kind == 'gid':
        declined(server, source, sys.argv[5])
        return
    if kind == 'length':
        of_length(server, source, sys.argv[5], int(sys.argv[6]))
        return
    if kind == 'rails':
        rails(server, source, int(sys.argv[5]), map(int, sys.argv[6:]))
        return
    if kind == 'verdict':
        rails(server, source, 1, [0], int(sys.argv[5]))
        return
    peers = []
    for number in range(int(sys.argv[5])):
        peer = connect(server, source)
        peers.append(peer)
        peer.sendall(half_open(sys.argv[6] if sys.argv[6:] else 'plain', source, number))
    print('offered', flush=True)
    if kind == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()


main()
