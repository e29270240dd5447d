"""Clients that change to RDMA and then do not keep to the protocol: their session ends with a line that says why, and
the server goes on serving others."""

import pytest

from conftest import BIN, PORT, not_emulated

pytestmark = not_emulated

EP = f'10.77.0.1:{PORT}'
HOSTILE = BIN / 'rdma-hostile'
UNIT = BIN / 'unit-net'

ATTACKS = {
    'oversized': 'the RDMA connection broke: local',  # length error; Soft-RoCE says QP operation error
    'empty': 'the peer sent a malformed RDMA message',
    'plain': 'the peer sent a malformed RDMA message',
    'credits': 'the peer sent a malformed RDMA message',
    'tcp': 'the peer spoke TCP after the change to RDMA',
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
    """The worker is stopped meanwhile, so that none can be given back. Without records, whose absence ends it sooner."""
    server = rig.server()
    go = rig.pair.shared / 'go'
    client = rig.client_machine.start(f'while [ ! -e {go} ]; do sleep .05; done | {HOSTILE} 10.77.0.1 {PORT} flood',
                                      env={'GGML_RPC_RECONNECT_S': '0'})
    client.wait_for('activated')
    rig.server_machine.run('kill -STOP $(pgrep -f [w]orker-control)', check=True)
    go.touch()
    client.wait_for('flooded')
    rig.client_machine.run('sleep .5')  # on their way: nothing says when they have come
    rig.server_machine.run('kill -CONT $(pgrep -f [w]orker-control)', check=True)
    assert client.wait(30) == 0, client.output()
    server.wait_for('the peer sent more RDMA messages than it had credits for', 20)
    serves_others(rig, local)


@not_emulated
def test_facts_that_make_no_sense(rig, local):
    rig.server()
    code, output = rig.client_machine.run(f'{HOSTILE} 10.77.0.1 {PORT} facts')
    assert (code, output) == (0, "accepted 0: the peer's queue pair makes no sense\n")
    serves_others(rig, local)


@not_emulated
@pytest.mark.parametrize('what, reason', [
    ('lie', 'has heard over RDMA what was not said'),
    ('token', 'something else than the token came over RDMA'),
    ('long-token', 'something else than the token came over RDMA'),
    ('verdict', 'the client did not say how to go on'),
    ('long-verdict', 'the client did not say how to go on'),
])
def test_on_the_way_to_rdma(rig, local, what, reason):
    server = rig.server()
    code, output = rig.client_machine.run(f'{HOSTILE} 10.77.0.1 {PORT} {what}')
    assert code == 0, output
    server.wait_for(reason, 20)
    serves_others(rig, local)


@not_emulated
@pytest.mark.skipif(not UNIT.exists(), reason='no unit tests in this build')
def test_unit_tests_with_a_device(rig):
    """Those of set-up, which are skipped where there is no device."""
    code, output = rig.server_machine.run(f"{UNIT} --gtest_filter='Rdma*'")
    assert code == 0 and 'SKIPPED' not in output, output
