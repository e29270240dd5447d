"""Attacks of a peer without any right on a server's connections, waiting clients and sessions, each as a program of its own:

    attacks.py NAME HOST:PORT SECONDS

They come from 127.0.0.1. Whoever measures comes from 127.0.0.2: another address, another user."""
import contextlib
import random
import select
import socket
import struct
import sys
import time

from stockwire import DEVICE_COUNT, HELLO, command, receive

ALLOC_BUFFER, GET_DEVICE_MEMORY = 0, 11
LINK, RESUME, LIFELINE, RDMA_OFFER = 130, 132, 134, 128
RESUMES, RDMA = 4, 1
GREETING = command(HELLO, bytes(24))


def caravan(token=0, features=RESUMES):
    """HELLO of a Caravan client."""
    return command(HELLO, bytes(4) + b'CARAVAN1' + struct.pack('<IQ', features, token))


def ask_session(server, address, wait=True):
    """A client with a session, or one that waits for it."""
    host, port = server.endpoint.rsplit(':', 1)
    peer = socket.create_connection((host, int(port)), timeout=20, source_address=(address, 0))
    peer.sendall(GREETING + command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
    receive(peer, 36)
    if wait:
        receive(peer, 24)
    return peer


class Attack:
    def __init__(self, endpoint, seconds):
        host, port = endpoint.rsplit(':', 1)
        self.target = host, int(port)
        self.end = time.monotonic() + seconds
        self.peers = []

    def goes_on(self):
        return time.monotonic() < self.end

    def connect(self):
        return socket.create_connection(self.target, timeout=5)

    def keep(self, first=b'', number=1):
        for _ in range(number):
            with contextlib.suppress(OSError):
                peer = self.connect()
                self.peers.append(peer)
                peer.sendall(first)

    def alive(self):
        """Those that the server has not closed."""
        poll = select.poll()
        by_fd = {peer.fileno(): peer for peer in self.peers}
        for fd in by_fd:
            poll.register(fd, select.POLLRDHUP)
        gone = {fd for fd, _ in poll.poll(0)}
        for fd in gone:
            by_fd[fd].close()
        self.peers = [peer for fd, peer in by_fd.items() if fd not in gone]
        return len(self.peers)

    def hold(self, number, first=b''):
        """So many connections at all times, each of which has sent `first`."""
        while self.goes_on():
            self.keep(first, min(64, number - self.alive()))
            time.sleep(0.005)

    # One connection, or few, that ask as fast as they can and read the answers.

    def pipelined_questions(self):
        self.ask_without_end(command(DEVICE_COUNT) * 2000, connections=1)

    def memory_questions(self):
        self.ask_without_end(command(GET_DEVICE_MEMORY, struct.pack('<I', 0)) * 200, connections=32)

    def ask_without_end(self, questions, connections):
        self.keep(GREETING, connections)
        poll = select.poll()
        by_fd = {}
        for peer in self.peers:
            peer.setblocking(False)
            by_fd[peer.fileno()] = peer
            poll.register(peer, select.POLLIN | select.POLLOUT)
        left = dict.fromkeys(by_fd, b'')  # a request is never torn, or the server would drop us
        while self.goes_on():
            for fd, events in poll.poll(1000):
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    if events & select.POLLIN:
                        by_fd[fd].recv(1 << 20)
                    if events & select.POLLOUT:
                        left[fd] = left[fd] or questions
                        left[fd] = left[fd][by_fd[fd].send(left[fd]):]

    # Connections that say nothing, or little, or never enough.

    def silent_connections(self):
        self.hold(1000)

    def flood(self):
        """Connected, and given up at once."""
        while self.goes_on():
            with contextlib.suppress(OSError):
                self.connect().close()

    def dripping_greetings(self):
        self.keep(number=300)
        for byte in GREETING[:-1]:
            for peer in self.peers:
                with contextlib.suppress(OSError):
                    peer.sendall(bytes([byte]))
            time.sleep(max(0, self.end - time.monotonic()) / len(GREETING))
            self.alive()

    def bogus_tokens(self):
        """Connections for sessions and links that do not exist."""
        while self.goes_on():
            for first in LINK, RESUME, LIFELINE:
                payload = bytes(12) if first == RESUME else b''
                with contextlib.suppress(OSError), self.connect() as peer:
                    peer.sendall(caravan(random.getrandbits(64)) + command(first, payload))

    # Sessions.

    def idle_sessions(self):
        self.hold(16, GREETING + command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))

    def queue_that_leaves(self):
        """All sessions in use, and clients that wait for one and leave."""
        ask = GREETING + command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096))
        self.keep(ask, 16)
        while self.goes_on():
            held, self.peers = self.peers, []
            self.keep(ask, 256)
            for peer in self.peers:
                peer.close()
            self.peers = held
            time.sleep(0.2)

    def short_sessions(self):
        """Each costs the server a worker process."""
        ask = GREETING + command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096))
        while self.goes_on():
            self.keep(ask, 8)
            for peer in self.peers:
                with contextlib.suppress(OSError):
                    peer.settimeout(0.5)
                    receive(peer, 36 + 24)
                peer.close()
            self.peers = []

    def own_token(self):
        """A session's client hands its own session connections without end: lifelines, links and resumes."""
        peer = self.connect()
        self.peers.append(peer)
        peer.sendall(caravan())
        token, = struct.unpack_from('<Q', receive(peer, 36), 28)
        peer.sendall(command(133))  # RECORDS
        while self.goes_on():
            for first in command(LINK)[:5], command(LIFELINE), command(RESUME, bytes(12)), command(RDMA_OFFER)[:9]:
                self.keep(caravan(token, RESUMES | RDMA) + first)
            del self.peers[1:-200]

    def torn_offers(self):
        """Sessions that begin with half an offer of RDMA."""
        self.hold(16, caravan(features=RESUMES | RDMA) + struct.pack('<BQ', RDMA_OFFER, 40) + bytes(20))


if __name__ == '__main__':
    name, endpoint, seconds = sys.argv[1:]
    getattr(Attack(endpoint, float(seconds)), name)()
