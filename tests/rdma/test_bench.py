"""rpc-bench and rpc-doctor on machines with both transports."""
import json
import time

from conftest import BIN, MODEL, PORT, is_slow, not_emulated

EP = f'10.77.0.1:{PORT}'


def bench(rig, *options, env=None):
    """Runs rpc-bench and returns its JSON report."""
    file = rig.pair.shared / 'bench.json'
    code, output = rig.client_machine.run(f'{BIN}/rpc-bench --rpc {EP} -o json {" ".join(map(str, options))} >{file}',
                                          timeout=300, env=env)
    assert code == 0, output
    return json.loads(file.read_text())


def test_the_link_over_both_transports(rig):
    rig.server()
    links = bench(rig, '--rounds', 2, '--time', 1)['links']
    assert [link['transport'] for link in links] == ['tcp', 'rdma']
    for link in links:
        assert link['failure'] is None and link['why_not_rdma'] is None
        assert [size['bytes'] for size in link['sizes']] == [64 * 4 ** power for power in range(10)]
        assert all(len(size['rounds']['to_server_bytes_per_second']) == 2 for size in link['sizes'])


def test_the_environment_chooses_the_transport(rig):
    rig.server()
    for transport in ['tcp', 'rdma']:
        link, = bench(rig, '--rounds', 1, '--time', 1, env={'GGML_RPC_TRANSPORT': transport})['links']
        assert link['transport'] == transport


def test_a_model_over_tcp_and_rdma(rig):
    rig.server()
    before = rig.client_machine.counters()['rdma_sends']
    tokens = 8 if is_slow() else 32
    report = bench(rig, '-m', MODEL, '-t', 1, '-p', 0, '-n', tokens, '-r', 1, '--rounds', 2, '--against', 'tcp,rdma')
    assert [arrangement['name'] for arrangement in report['arrangements']] == ['caravan', 'tcp', 'rdma']
    assert all(len(arrangement['runs']) == 2 for arrangement in report['arrangements'])
    # At least one message for each token; 2 of 3 arrangements use RDMA.
    assert rig.client_machine.counters()['rdma_sends'] - before >= 2 * 2 * tokens


def measuring(rig, command):
    """A tool that is measuring over RDMA, and the file with its output."""
    file = rig.pair.shared / 'report.json'
    before = rig.client_machine.counters()['rdma_sends']
    tool = rig.client_machine.start(f'exec {command} >{file}', env=rig.environment())
    deadline = time.monotonic() + 60
    while rig.client_machine.counters()['rdma_sends'] < before + 300:
        assert time.monotonic() < deadline and tool.returncode is None, tool.output()
        time.sleep(0.05)
    return tool, file


def remove_device(rig, seconds):
    """The session continues over TCP at once, and returns to RDMA while the same figure is being measured."""
    rig.client_machine.run('rdma link delete rxe0', check=True)
    time.sleep(seconds)
    rig.client_machine.run('rdma link add rxe0 type rxe netdev eth0', check=True)


BROKE = 'the connection over rdma broke during the measurement, and continued over '


@not_emulated
def test_doctor_reports_that_rdma_broke_during_a_measurement(rig):
    rig.server()
    tool, file = measuring(rig, f'{BIN}/rpc-doctor {EP} --json --time 5000')
    remove_device(rig, 1)
    assert tool.wait(60) == 1, tool.output()
    report = json.loads(file.read_text())
    endpoint, = report['endpoints']
    rdma = endpoint['measured']['rdma']
    assert not report['well'] and rdma['failure'].startswith(BROKE)
    assert rdma['median_us'] is not None and rdma['to_server_bytes_per_second'] is None, 'the figure of that time'
    assert any(finding['mark'] == 'fix' and f'measuring over RDMA failed: {BROKE}' in finding['what']
               for finding in endpoint['findings'])


@not_emulated
def test_bench_reports_that_rdma_broke_during_a_measurement(rig):
    rig.server()
    tool, file = measuring(rig, f'{BIN}/rpc-bench --rpc {EP} -o json --rounds 1 --time 1000')
    remove_device(rig, 1)
    assert tool.wait(90) == 1, tool.output()
    tcp, rdma = json.loads(file.read_text())['links']
    assert tcp['failure'] is None and len(tcp['sizes']) == 10
    assert rdma['failure'].startswith(BROKE) and len(rdma['sizes']) < 10
    assert BROKE in tool.output()


@not_emulated
def test_bench_reports_that_rdma_broke_while_a_model_ran(rig):
    rig.server()
    tool, file = measuring(rig, f'{BIN}/rpc-bench --rpc {EP} -o json -m {MODEL} -t 1 -p 0 -n 2000 -r 2 --rounds 1')
    remove_device(rig, 1)
    assert tool.wait(120) == 1, tool.output()
    measured, = json.loads(file.read_text())['arrangements']
    assert measured['failure'] == f'the connection to {EP} broke during the measurement, and was replaced'
    assert measured['runs'] == []
