"""The programs as a new user meets them: what they print first, and their exit codes."""
import pytest

from system import BIN

RPC_DOCTOR = BIN / 'rpc-doctor'


def doctor(lab, *arguments, rc=0, env=None):
    return lab.run([RPC_DOCTOR, *arguments], tool=False, rc=rc, env={'GGML_RPC_TRANSPORT': '', **(env or {})}, timeout=60)


def test_the_doctor_finds_a_machine_with_tcp_alone_well(lab):
    server = lab.server()
    said = doctor(lab, server.endpoint, '--time', 50).out
    assert said.rstrip().endswith('All is well.') and 'MEND' not in said, said
    assert 'sessions go over TCP' in said or 'sessions go over RDMA' in said, said


def test_the_doctor_misses_rdma_that_is_asked_for(lab):
    said = doctor(lab, rc=1, env={'GGML_RDMA_DEV': 'no_such_device', 'GGML_RPC_TRANSPORT': 'rdma'}).out
    assert 'MEND' in said


@pytest.mark.parametrize('endpoint', ['127.0.0.1:1', 'no.such.host.invalid', 'unix:/no/such/socket'])
def test_the_doctor_says_what_to_do_about_a_server_that_is_not_there(lab, endpoint):
    said = doctor(lab, endpoint, rc=1).out
    finding = said[said.index('\nEndpoint '):].splitlines()[2:]
    assert finding[0].startswith('  MEND  cannot connect: ') and endpoint not in finding[0], said
    assert finding[1].startswith('        -> '), said
