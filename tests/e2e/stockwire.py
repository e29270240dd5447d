"""As much of ggml's RPC protocol 8.0 as it takes to be a strange client or server. docs/protocol.md has the rest."""
import socket
import struct

GET_DEVICE_MEMORY = 11
HELLO = 14
DEVICE_COUNT = 15
NATIVE = 2  # a feature of Caravan peers


def command(number, payload=b''):
    return struct.pack('<BQ', number, len(payload)) + payload


def answer(payload):
    return struct.pack('<Q', len(payload)) + payload


def hello(features=0, token=0):
    """HELLO of a Caravan client."""
    return command(HELLO, struct.pack('<I8sIQ', 0, b'CARAVAN1', features, token))


def receive(peer, size):
    """Exactly this many bytes. (MSG_WAITALL does not wait for all of them on a socket with a time-out.)"""
    data = b''
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError(f'the peer closed the connection after {len(data)} of {size} bytes')
        data += piece
    return data


def receive_reply(peer):
    """The kind of a reply, 0 for a good one, and its payload."""
    head, = struct.unpack('<Q', receive(peer, 8))
    return head >> 56, receive(peer, head & (1 << 56) - 1)


def connect(server):
    host, port = server.endpoint.rsplit(':', 1)
    return socket.create_connection((host, int(port)), timeout=30)


def greet(server, native=False):
    peer = connect(server)
    peer.sendall(hello(NATIVE) if native else command(HELLO, bytes(24)))
    receive(peer, 36)
    return peer


def free_memory(server, device=0):
    """What the server answers without a session."""
    with greet(server) as peer:
        peer.sendall(command(GET_DEVICE_MEMORY, struct.pack('<I', device)))
        return struct.unpack_from('<Q', receive(peer, 24), 8)[0]


def is_dropped(peer):
    """Waits, as long as the socket does, for the server to hang up."""
    try:
        return peer.recv(1) == b''
    except ConnectionError:
        return True
