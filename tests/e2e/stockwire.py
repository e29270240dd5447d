"""As much of ggml's RPC protocol 8.0 as it takes to be a strange client or server. docs/protocol.md has the rest."""
import socket
import struct

HELLO = 14
DEVICE_COUNT = 15


def command(number, payload=b''):
    return struct.pack('<BQ', number, len(payload)) + payload


def answer(payload):
    return struct.pack('<Q', len(payload)) + payload


def connect(server):
    host, port = server.endpoint.rsplit(':', 1)
    return socket.create_connection((host, int(port)), timeout=30)


def greet(server):
    peer = connect(server)
    peer.sendall(command(HELLO, bytes(24)))
    assert len(peer.recv(36, socket.MSG_WAITALL)) == 36
    return peer


def is_dropped(peer):
    """Waits, as long as the socket does, for the server to hang up."""
    try:
        return peer.recv(1) == b''
    except ConnectionError:
        return True
