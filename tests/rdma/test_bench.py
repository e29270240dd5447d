"""rpc-bench on machines with both transports."""
import json

from conftest import BIN, MODEL, PORT, is_slow

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
