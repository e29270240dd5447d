"""Offers of RDMA that are invalid, and clients that offer RDMA and then disappear or stay silent: they do not delay others."""
import pathlib
import re
import signal
import time

import pytest

from conftest import PORT, not_emulated

pytestmark = not_emulated

SCRIPT = pathlib.Path(__file__).parent / 'offers.py'
HOSTILE, OTHER = '10.77.0.2', '10.77.0.3'
BOUND = 3  # seconds; takes 0.1 to 0.9 on an idle computer, and more than 20 if others have to wait


@pytest.fixture(scope='module')
def other_address(pair):
    pair.b.run(f'ip address add {OTHER}/24 dev eth0', check=True)
    yield
    pair.b.run(f'ip address delete {OTHER}/24 dev eth0')


def command(*arguments):
    return f'python3 {SCRIPT} 10.77.0.1 {PORT} {" ".join(map(str, arguments))}'


@pytest.mark.parametrize('gid, reason', [
    ('::ffff:10.77.0.1', "the peer's GID 10.77.0.1 is that of this machine"),
    ('::', "the peer's GID is zero"),
    ('ff0e::ffff:10.77.0.2', "the peer's queue pair parameters are invalid"),
    ('::ffff:10.77.0.3', 'accepted'),  # RDMA may use another interface than TCP
])
def test_gid_of_an_offer(rig, other_address, gid, reason):
    server = rig.server(env={'GGML_RPC_DEBUG': '1'})
    _, output = rig.client_machine.run(command(HOSTILE, 'gid', gid), check=True)
    assert output.strip() == reason
    if reason == 'accepted':
        server.wait_for("the peer's GID 10.77.0.3 is not its address 10.77.0.2 of the connection")


def test_gid_that_no_machine_has(rig):
    """The kernel waits a second for its hardware address, and is asked once."""
    rig.server()
    begin = time.monotonic()
    _, output = rig.client_machine.run(command(HOSTILE, 'gid', '::ffff:10.77.0.77'), check=True)
    assert "Connection timed out (peer's GID 10.77.0.77)" in output
    assert time.monotonic() - begin < 2, 'it took two attempts'


def test_offers_of_wrong_length(rig):
    server = rig.server()
    for kind, name, size in ('offer', 'RDMA_OFFER', 40), ('rails', 'RDMA_RAILS', 164):
        rig.client_machine.run(command(HOSTILE, 'length', kind, size + 1), check=True)
        server.wait_for(f'{name}: invalid payload size of {size + 1} bytes, instead of {size}')


def seconds_to_reply(rig, source):
    _, output = rig.client_machine.run(command(source, 'honest'), timeout=100, check=True)
    return float(re.match(r'([0-9.]+) ', output)[1])


@pytest.mark.parametrize('count', [100, 272])
@pytest.mark.parametrize('kind, source, how', [
    *((kind, source, how) for kind, source in [('killed', HOSTILE), ('killed', OTHER), ('silent', OTHER), ('silent', HOSTILE)]
      for how in ('plain', 'admission')),
    *(('silent', HOSTILE, how) for how in ('confirm', 'asked', 'records', 'stock')),
])
def test_half_open_sessions_delay_no_other_client(rig, other_address, kind, source, how, count):
    """The other client may have the same address: a network may have one for all its machines."""
    rig.server()
    usual = seconds_to_reply(rig, source)
    hostile = rig.client_machine.start(f'sleep 1000 | {command(HOSTILE, kind, count, how)}')
    hostile.wait_for('offered', 60)
    took = seconds_to_reply(rig, source)
    hostile.kill(signal.SIGKILL)
    hostile.wait()
    print(f'{usual:.2f} s, with the offers {took:.2f} s')
    assert took - usual < BOUND
