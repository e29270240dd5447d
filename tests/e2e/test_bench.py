"""rpc-bench: derived values match the measurements, and failures are reported."""
import csv
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import pytest

import system
from system import BIN, MODEL, STOCK_SERVER, children, eventually, is_alive

RPC_BENCH = BIN / 'rpc-bench'


def bench(lab, *options, rc=0, env=None):
    # llama-bench inherits the environment; under a sanitizer the plug-in needs its run-time library.
    env = {'LD_PRELOAD': system.PRELOAD, **(env or {})}
    return lab.run([RPC_BENCH, *options], ours=False, env=env, rc=rc, timeout=300)


def model_bench(lab, servers, *options, **kwargs):
    return bench(lab, '--rpc', ','.join(server.endpoint for server in servers), '-m', MODEL, '-t', 1, '-p', 16, '-n', 8,
                 '-r', 2, '--rounds', 3, *options, **kwargs)


def summary(values):
    return {'median': pytest.approx(statistics.median(values)), 'min': pytest.approx(min(values)),
            'max': pytest.approx(max(values)), 'count': len(values)}


def rates(arrangement, number):
    """Tokens per second by round, from the raw times."""
    return [run['tests'][number]['tokens'] * 1e9 / statistics.median(run['tests'][number]['samples_ns'])
            for run in arrangement['runs']]


def test_model_in_four_arrangements(lab):
    server, picture = lab.server(), lab.folder / 'out.svg'
    done = model_bench(lab, [server], '--against', 'stock,tcp,local', '-o', 'json', '--plot', picture)
    result = json.loads(done.out)
    arrangements = {arrangement['name']: arrangement for arrangement in result['arrangements']}
    assert list(arrangements) == ['caravan', 'stock', 'tcp', 'local']
    first, local = arrangements['caravan'], arrangements['local']
    for arrangement in arrangements.values():
        assert arrangement['failure'] is None
        assert [run['round'] for run in arrangement['runs']] == [0, 1, 2]
        assert all(run['load_s'] > 0 for run in arrangement['runs'])
        assert arrangement['load_s'] == summary([run['load_s'] for run in arrangement['runs']])
        for number, test in enumerate(arrangement['tests']):
            assert test['test'] == ['pp16', 'tg8'][number]
            mine = rates(arrangement, number)
            assert test['tokens_per_second'] == summary(mine)
            assert test['ratio'] == summary([a / b for a, b in zip(mine, rates(first, number))])
            if arrangement is local or number == 0:
                assert test['overhead_us_per_token'] is None
            else:
                assert test['overhead_us_per_token'] == summary(
                    [1e6 / a - 1e6 / b for a, b in zip(mine, rates(local, number))])
    # The order rotates: in each round every arrangement has another position.
    for number, arrangement in enumerate(result['arrangements']):
        assert [run['position'] for run in arrangement['runs']] == [(number - turn) % 4 for turn in range(3)]
    for arrangement in arrangements.values():
        for run in arrangement['runs']:
            assert (run['traffic'] is not None) == (run['load_from_cache'] is not None) == (
                arrangement['name'] in ('caravan', 'tcp'))
    assert server.served() > 0
    assert 'round 3 of 3: local: pp16 ' in done.err
    xml.dom.minidom.parse(str(picture))


def test_model_on_one_server_and_split_by_tensors(lab):
    servers = [lab.server(), lab.server()]
    result = json.loads(model_bench(lab, servers, '--against', 'one,tensor', '-o', 'json').out)
    arrangements = {arrangement['name']: arrangement for arrangement in result['arrangements']}
    assert list(arrangements) == ['caravan', 'one', 'tensor']
    assert [len(arrangement['endpoints']) for arrangement in arrangements.values()] == [2, 1, 2]
    assert all(arrangement['failure'] is None for arrangement in arrangements.values())
    sends = {name: statistics.median(run['traffic']['sends'] for run in arrangement['runs'])
             for name, arrangement in arrangements.items()}
    assert sends['one'] < sends['caravan'] < sends['tensor'], 'for each token'


@pytest.mark.skipif(STOCK_SERVER is None, reason="stock's server is not installed")
def test_stock_arrangement_with_its_own_servers(lab):
    server, stock = lab.server(), lab.stock_server()
    done = model_bench(lab, [server], '--against', 'stock', '--against-rpc', stock.endpoint, '-o', 'csv')
    rows = list(csv.DictReader(done.out.splitlines()))
    assert {row['arrangement'] for row in rows} == {'caravan', 'stock'}
    # For each of 3 rounds and 2 arrangements: the load, and 2 repetitions of 2 tests.
    assert len(rows) == 3 * 2 * (1 + 2 * 2)
    for row in rows:
        if row['test'] != 'load':
            assert float(row['tokens_per_second']) == pytest.approx(int(row['tokens']) * 1e9 / int(row['ns']), abs=1e-3)


def test_traffic_of_a_token(lab):
    """Two linked servers: one send to each and one round trip; the load does not count."""
    servers = [lab.server(), lab.server()]
    done = bench(lab, '--rpc', ','.join(server.endpoint for server in servers), '-m', MODEL, '-t', 1, '-p', 0, '-n', 32,
                 '-r', 1, '--rounds', 5, '-o', 'json')
    arrangement, = json.loads(done.out)['arrangements']
    assert any(run['traffic']['sends'] == pytest.approx(2, abs=0.5) for run in arrangement['runs'])
    for run in arrangement['runs']:
        traffic = run['traffic']
        assert traffic['round_trips'] == pytest.approx(1, abs=0.3)
        # On a busy machine launches are sent before their results are requested, up to four sends per token, and the compared
        # runs of 64 and 32 tokens may differ in that.
        assert 0 < traffic['sends'] <= (64 * 4 - 32 * 2) / 32
        assert 100 < traffic['bytes_up'] < 10_000, 'a few inputs, no weights'
        assert 4 * 2048 <= traffic['bytes_down'] < 4 * 2048 + 200, 'the logits of one token'
        shares = traffic['shares_us']
        assert sum(shares.values()) == pytest.approx(traffic['us'])
        assert shares['wire'] > 0
    for name in ('round_trips', 'sends', 'bytes_up', 'bytes_down', 'us'):
        assert arrangement['traffic_per_token'][name] == summary([run['traffic'][name] for run in arrangement['runs']])


@pytest.mark.skipif(STOCK_SERVER is None, reason="stock's server is not installed")
def test_stock_server_has_no_time_shares(lab):
    arrangement, = json.loads(model_bench(lab, [lab.stock_server()], '-o', 'json').out)['arrangements']
    for run in arrangement['runs']:
        # The number of sends depends on the load of the machine during the two runs.
        assert run['traffic']['bytes_up'] > 0 and run['traffic']['shares_us'] is None


def test_first_load_fills_the_cache_for_later_ones(lab):
    server = lab.server('-c', env={'LLAMA_CACHE': lab.folder / 'cache'})
    arrangement, = json.loads(bench(lab, '--rpc', server.endpoint, '-m', big_model(lab), '-t', 1, '-p', 1, '-n', 0, '-r',
                                    1, '--rounds', 3, '-o', 'json').out)['arrangements']
    assert arrangement['first_load']['from_cache']['median'] == 0
    assert arrangement['later_loads']['from_cache']['min'] > 0.9
    assert arrangement['later_loads']['seconds'] == summary([run['load_s'] for run in arrangement['runs'][1:]])
    assert all(run['traffic'] is None for run in arrangement['runs']), 'nothing was generated'


def big_model(lab):
    """Most bytes are in tensors of more than 1 MiB, which clients query by digest."""
    file = lab.folder / 'big.gguf'
    subprocess.run([sys.executable, system.MAKE_MODELS, '--bench', '--out', file, '--layers', '1', '--d', '512',
                    '--heads', '8', '--ff', '4096', '--vocab', '8192', '--type', 'q8_0'], check=True,
                   stdout=subprocess.DEVNULL, timeout=system.PATIENCE)
    return file


def test_network_path(lab):
    server, picture = lab.server(), lab.folder / 'out.svg'
    done = bench(lab, '--rpc', server.endpoint, '--rounds', 2, '--time', 5, '-o', 'json', '--plot', picture)
    link, = json.loads(done.out)['links']
    assert link['transport'] == 'tcp' and link['failure'] is None
    assert [size['bytes'] for size in link['sizes']] == [64 * 4 ** power for power in range(10)]
    for size in link['sizes']:
        trips = [trip for turn in size['rounds']['round_trips_us'] for trip in turn]
        assert len(size['rounds']['round_trips_us']) == 2 and size['round_trips'] == len(trips)
        assert 0 < min(trips) <= size['p50_us'] <= size['p90_us'] <= size['p99_us'] <= max(trips)
        assert size['p50_us'] in trips
        for rate in ['to_server_bytes_per_second', 'from_server_bytes_per_second']:
            assert size[rate] == summary(size['rounds'][rate])
    xml.dom.minidom.parse(str(picture))


def test_tables_are_markdown(lab):
    server = lab.server()
    for done, columns in [(bench(lab, '--rpc', server.endpoint, '--rounds', 1, '--time', 1), [9]),
                          (model_bench(lab, [server], '--against', 'local'), [9, 5, 10])]:
        tables = [table.splitlines() for table in re.findall(r'(?:^\|.*\n)+', done.out, re.M)]
        assert [{row.count('|') - 1 for row in rows} for rows in tables] == [{count} for count in columns]
        for rows in tables:
            assert len(rows) >= 3 and set(rows[1]) == set('|-: ')


def test_unreachable_server(lab):
    endpoint = f'127.0.0.1:{system.free_port()}'
    assert f'{endpoint} failed: ' in bench(lab, '--rpc', endpoint, '--rounds', 1, rc=1).out
    done = bench(lab, '--rpc', endpoint, '-m', MODEL, '-n', 1, '-p', 0, '--rounds', 1, '--against', 'local', rc=1)
    assert f'caravan failed: llama-bench gets no device from {endpoint}' in done.out
    assert re.search(r'\| local +\| +tg1 \|', done.out), 'the other arrangement is measured'


def test_failed_run_is_reported(lab):
    done = model_bench(lab, [lab.server()], '--', '--no-such-option', rc=1)
    assert done.lines('caravan failed: llama-bench ended with exit code 1: .*no-such-option')


def test_signal_ends_llama_bench_too(lab):
    process = lab.start('rpc-bench', [RPC_BENCH, '--rpc', lab.server().endpoint, '-m', MODEL, '-t', 1, '-r', 100000],
                        ours=False, env={'LD_PRELOAD': system.PRELOAD})

    def runs_the_model(pid):
        try:
            return b'--progress' in Path(f'/proc/{pid}/cmdline').read_bytes()
        except OSError:
            return False  # it has ended

    def at_work():
        return [pid for pid in children(process.pid) if runs_the_model(pid)]
    child, = eventually(at_work, 'llama-bench runs the model')
    assert process.stop() == -signal.SIGTERM
    assert not is_alive(child)


@pytest.mark.parametrize('ranks', [2, 3])
def test_all_reduce(lab, ranks):
    # The first shares no memory.
    servers = [lab.server(env={'GGML_RPC_DEBUG': '1', 'GGML_RPC_SHM': 'auto' if i > 0 else 'off'}) for i in range(ranks)]
    names = ','.join(server.endpoint for server in servers)
    result = json.loads(bench(lab, '--allreduce', '--rpc', names, '--rounds', 2, '-o', 'json').out)
    assert result['kind'] == 'all_reduce' and result['failure'] is None
    assert result['transports'] == {2: 'tcp', 3: 'shared memory and tcp'}[ranks]
    assert result['endpoints'] == names.split(',')
    assert [size['bytes'] for size in result['sizes']] == [4096 * 4 ** power for power in range(6)]
    for size in result['sizes']:
        assert [[len(sums) for sums in ranks] for ranks in size['us']] == [
            [min(32, max(4, (8 << 20) // size['bytes']))] * ranks] * 2
        times = sorted(statistics.mean(us) for ranks in size['us'] for us in zip(*ranks))
        assert times[0] > 0 and size['p50_us'] == pytest.approx(times[(len(times) + 1) // 2 - 1])
    # Those that the servers log: 'direct up to 64 KiB, scatter'.
    choice = re.search(r'All-reduce over . servers: (.*)', servers[0].log()).group(1)
    algorithms = [size['algorithm'] for size in result['sizes']]
    assert {part.split()[0] for part in choice.split(', ')} >= set(algorithms)
    assert ranks > 2 or set(algorithms) == {'direct'}
    assert algorithms[-1] == choice.split(', ')[-1]
    table = bench(lab, '--allreduce', '--rpc', names, '--rounds', 1).out
    assert re.search(r'\|\s+4 MiB \| (direct|doubling|scatter) ', table) and f'{ranks} ranks, linked over {result["transports"]};' in table


def test_all_reduce_with_a_lost_server(lab):
    servers = [lab.server(), lab.server()]
    names = ','.join(server.endpoint for server in servers)
    process = lab.start('rpc-bench', [RPC_BENCH, '--allreduce', '--rpc', names, '--rounds', '10000', '-o', 'json'], ours=False)
    process.wait_for('round 1 of 10000 done')
    servers[1].kill()
    assert process.wait() == 1
    assert 'the measurement failed: ' in process.err()
    assert json.loads(process.out())['sizes'], 'the results before'


@pytest.mark.skipif(STOCK_SERVER is None, reason="stock's server is not installed")
def test_all_reduce_needs_servers_of_caravan(lab):
    stock = lab.stock_server()
    done = bench(lab, '--allreduce', '--rpc', f'{lab.server().endpoint},{stock.endpoint}', rc=1)
    assert done.out == f'the measurement failed: {stock.endpoint}: its server is a stock one\n'


def test_missing_llama_bench_is_reported_with_advice(lab):
    empty = lab.folder / 'empty'
    empty.mkdir()
    server = lab.server()
    result = model_bench(lab, [server], env={'PATH': empty}, rc=1).err
    assert 'llama-bench is not on PATH: install' in result
    assert 'LLAMA_BENCH=/nowhere is not an executable file' in model_bench(lab, [server], env={'LLAMA_BENCH': '/nowhere'}, rc=1).err


def test_launchers_are_skipped(lab):
    """A launcher would load Caravan's plug-in in every arrangement."""
    done = model_bench(lab, [lab.server()], '-o', 'json', env={'PATH': f'{BIN}:{system.environment(False)["PATH"]}'})
    program = json.loads(done.out)['llama_bench']['program']
    assert program == shutil.which('llama-bench', path=system.environment(False)['PATH'])


@pytest.mark.parametrize('options', [[], ['--rpc', 'a:b'], ['--rpc', 'a', '--against', 'local'],
                                     ['--rpc', 'a', '--cold'], ['--rpc', 'a', '--allreduce'],
                                     ['--rpc', 'a,b', '--allreduce', '--plot', '/dev/null'],
                                     ['--rpc', 'a', '-m', 'no-such-model'], ['--rpc', 'a', '--', '-fa', 'on'],
                                     ['--rpc', 'a', '-m', MODEL, '--against', 'fast'],
                                     ['--rpc', 'a', '-m', MODEL, '--against', 'tcp,tcp'],
                                     ['--rpc', 'a', '-m', MODEL, '-p', '0', '-n', '0'],
                                     ['--rpc', 'a', '-m', MODEL, '--against-rpc', 'b'],
                                     ['--rpc', 'a', '--plot', '/no/such/folder/out.svg'],
                                     ['--rpc', 'a', '-o', 'xml'], ['--rpc', 'a', 'stray']],
                         ids=lambda options: ' '.join(map(str, options)))
def test_wrong_command_line(lab, options):
    done = bench(lab, *options, rc=2)
    assert done.err.strip() and done.out == ''


def test_help(lab):
    result = bench(lab, '--help').out
    for word in ['--rpc', '--against-rpc', '--rounds', '--plot', 'LLAMA_BENCH', 'Exit codes:', 'Without a model:']:
        assert word in result
