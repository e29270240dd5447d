"""A server with GGML_RPC_TRANSPORT=rdma, on a machine without RDMA: clients get the reason for the refusal."""
import re
import struct

import pytest

from stockwire import HELLO, command, connect, greet, is_dropped, receive
from system import BIN, MODEL, PROMPT

pytestmark = pytest.mark.skipif(not (BIN / 'rdma-hostile').exists(), reason='a build without RDMA ignores the setting')

NATIVE, RESUME = 2, 4
CLOCK, RECORDS = 79, 133
REASON = 'the server accepts only RDMA (GGML_RPC_TRANSPORT=rdma there)'


def test_client_reports_why_and_what_to_do(lab):
    server = lab.server(env={'GGML_RPC_TRANSPORT': 'rdma'})
    done = lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 1, '-no-cnv', '-t', 1, '-ngl', 99,
                    '--rpc', server.endpoint], rc=1)
    line, = done.lines('what to do')
    assert re.search(f'RPC server {re.escape(server.endpoint)}: {re.escape(REASON)}, which is not available: .+; what to do: '
                     f'"rpc-doctor {re.escape(server.endpoint)}" shows what RDMA lacks; without GGML_RPC_TRANSPORT=rdma the '
                     'server also accepts TCP', line), line
    assert re.search('transport +: none: GGML_RPC_TRANSPORT=rdma, but .+', server.log())
    assert server.served() == 0, 'it does not occupy a session'


@pytest.mark.parametrize('features', [NATIVE, NATIVE | RESUME], ids=['plain', 'records'])
def test_older_client_receives_the_reason(lab, features):
    """It does not know the capability, and sends its first command."""
    server = lab.server(env={'GGML_RPC_TRANSPORT': 'rdma'})
    with connect(server) as peer:
        peer.sendall(command(HELLO, struct.pack('<I8sIQ', 0, b'CARAVAN1', features, 0)))
        receive(peer, 36)
        reason = struct.pack('<Q', 1 << 56 | len(REASON)) + REASON.encode()
        if features & RESUME:
            peer.sendall(command(RECORDS))
            header = receive(peer, 16)
            assert struct.unpack('<IIQ', header)[0] == len(reason)
        else:
            peer.sendall(command(CLOCK))
        received = b''
        while data := peer.recv(4096):
            received += data
        assert received == reason
    server.wait_for('GGML_RPC_TRANSPORT=rdma, but the client')


def test_stock_client_is_closed(lab):
    server = lab.server(env={'GGML_RPC_TRANSPORT': 'rdma'})
    with greet(server) as peer:
        peer.sendall(command(0, struct.pack('<IQ', 0, 4096)))
        assert is_dropped(peer)
