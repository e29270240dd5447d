"""Clients that switch to RDMA and then violate the protocol: the server logs why it ends their session, and continues to
serve others."""

import pytest

from conftest import BIN, PORT, not_emulated

pytestmark = not_emulated

EP = f'10.77.0.1:{PORT}'
HOSTILE = BIN / 'rdma-hostile'
UNIT = BIN / 'unit-net'

ATTACKS = {
    'oversized': 'the RDMA connection failed: local',  # length error; Soft-RoCE reports a QP operation error
    'empty': 'the peer sent a malformed RDMA message',
    'short': 'the peer sent a malformed RDMA message',
    'number': 'the peer sent a malformed RDMA message',
    'credits': 'the peer sent a malformed RDMA message',
    'tcp': 'the peer sent data over TCP after switching to RDMA',
}


def serves_others(rig, local):
    logits, output = rig.logits(EP)
    assert 'transport rdma' in output
    assert logits == local


@not_emulated
@pytest.mark.parametrize('attack', ATTACKS)
def test_after_activation(rig, local, attack):
    server = rig.server()
    code, output = rig.client_machine.run(f'{HOSTILE} 10.77.0.1 {PORT} {attack}')
    assert code == 0 and 'closed by the server' in output, output + rig.log()
    server.wait_for(ATTACKS[attack], 20)
    serves_others(rig, local)


@not_emulated
def test_more_messages_than_credits(rig, local):
    """The worker is stopped meanwhile, so that it returns no credits. Resuming is off, because missing records would end the
    session earlier."""
    server = rig.server()
    go = rig.pair.shared / 'go'
    client = rig.client_machine.start(f'while [ ! -e {go} ]; do sleep .05; done | {HOSTILE} 10.77.0.1 {PORT} flood',
                                      env={'GGML_RPC_RECONNECT_S': '0'})
    client.wait_for('activated')
    rig.server_machine.run('kill -STOP $(pgrep -f [c]aravan-worker)', check=True)
    go.touch()
    client.wait_for('flooded')
    rig.client_machine.run('sleep .5')  # until the messages have arrived, which nothing reports
    rig.server_machine.run('kill -CONT $(pgrep -f [c]aravan-worker)', check=True)
    assert client.wait(30) == 0, client.output()
    server.wait_for('the peer sent more RDMA messages than it had credits for', 20)
    serves_others(rig, local)


@not_emulated
def test_invalid_queue_pair_parameters(rig, local):
    rig.server()
    code, output = rig.client_machine.run(f'{HOSTILE} 10.77.0.1 {PORT} facts')
    assert (code, output) == (0, "accepted 0: the peer's queue pair parameters are invalid\n")
    serves_others(rig, local)


@not_emulated
@pytest.mark.parametrize('what, reason', [
    ('lie', 'the client confirmed a token over RDMA that was never sent'),
    ('token', 'the first message over RDMA is not the token'),
    ('short-token', 'the first message over RDMA is not the token'),
    ('verdict', 'the client did not send a verdict on RDMA'),
    ('long-verdict', 'the client did not send a verdict on RDMA'),
])
def test_during_negotiation(rig, local, what, reason):
    server = rig.server()
    code, output = rig.client_machine.run(f'{HOSTILE} 10.77.0.1 {PORT} {what}')
    assert code == 0, output
    server.wait_for(reason, 20)
    serves_others(rig, local)


@not_emulated
@pytest.mark.skipif(not UNIT.exists(), reason='no unit tests in this build')
def test_unit_tests_with_a_device(rig):
    """The tests of set-up and of several queue pairs, which are skipped on machines without an RDMA device."""
    code, output = rig.server_machine.run(f"{UNIT} --gtest_filter='*Rdma*'", timeout=120)
    assert code == 0 and 'SKIPPED' not in output, output
