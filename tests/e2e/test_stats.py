"""The plug-in's reports of a session: its counts (GGML_RPC_STATS), and the line about loaded weights."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import local_logits, same
from system import MAKE_MODELS, MODEL, PATIENCE

VERBOSE = ['-lv', 4]


def computing(file):
    """The sessions in the GGML_RPC_STATS file that computed. A program may open others to query op support."""
    sessions = [json.loads(line) for line in file.read_text().splitlines()]
    return [session for session in sessions if session['launches'] > 0]


def test_each_session_has_a_line(lab):
    servers, file = [lab.server(), lab.server(env={'GGML_RPC_DIALECT': 'stock'})], lab.folder / 'stats'
    for _ in range(2):
        same(lab.logits(servers, env={'GGML_RPC_STATS': file}), local_logits(lab))
    sessions = computing(file)
    assert sorted(session['endpoint'] for session in sessions) == sorted(2 * [server.endpoint for server in servers])
    for session in sessions:
        native = session['endpoint'] == servers[0].endpoint
        assert session['dialect'] == ('native' if native else 'stock') and session['transport'] == 'tcp'
        assert (session['round_trip_s'] is not None) == native
        assert (session['served_s'].get('GRAPH', 0) > 0) == native
        since = session['since_load']
        for name in ('sends', 'bytes_sent', 'bytes_received', 'round_trips', 'waiting_s', 'seconds'):
            assert 0 < since[name] <= session[name], name
        assert since['launches'] == session['launches'] > 0, 'the weights precede the first launch'
        # The weights count as bytes sent, but not as bytes sent since the load.
        assert session['bytes_sent'] - since['bytes_sent'] >= session['weights']['bytes'] > 0
        assert session['waiting_s'] <= session['seconds']
    assert sum(session['weights']['bytes'] for session in sessions) == pytest.approx(2 * MODEL.stat().st_size, rel=0.1)
    # The servers' own counts.
    assert sum(session['launches'] for session in sessions) == sum(server.served() for server in servers)


def test_unwritable_stats_file_is_logged(lab):
    logits, log = lab.logits([lab.server()], env={'GGML_RPC_STATS': '/no/such/folder/stats'}), lab.processes[-1].log()
    same(logits, local_logits(lab))
    assert 'GGML_RPC_STATS: cannot write /no/such/folder/stats: No such file' in log


def decode_steps(lab, servers, sequences, steps):
    """Counts of llama-batched-bench, which decodes one token of each sequence in each step."""
    file = lab.folder / f'stats-{len(servers)}-{sequences}-{steps}'
    file.unlink(missing_ok=True)
    lab.run(['llama-batched-bench', '-m', MODEL, '-t', 1, '-ngl', 99, '--rpc', ','.join(s.endpoint for s in servers),
             '-c', 2048, '-npp', 8, '-ntg', steps, '-npl', sequences], env={'GGML_RPC_STATS': file})
    sessions = [session['since_load'] for session in computing(file)]
    assert len(sessions) == len(servers)
    return {name: sum(session[name] for session in sessions) for name in ('sends', 'round_trips', 'launches')}


@pytest.mark.parametrize('count', [1, 2], ids=['one server', 'two servers'])
def test_parallel_sequences_cost_no_more_sends_than_one(lab, count):
    servers = [lab.server() for _ in range(count)]
    few, many = 8, 40

    def of_a_step(sequences):
        short, long = (decode_steps(lab, servers, sequences, steps) for steps in (few, many))
        each = {name: (long[name] - short[name]) / (many - few) for name in short}
        assert each['launches'] == count
        assert each['round_trips'] <= 1.5, sequences
        return each

    for sequences in (1, 32):
        # Each server receives one batch, and one reply has the logits of all sequences. On a busy machine some launches are
        # not held for their read, but hardly this many three times in a row.
        assert any(of_a_step(sequences)['sends'] <= 1.5 * count for _ in range(3)), sequences


# --- weights ---------------------------------------------------------------------------------------------------------

LOADED = r'RPC server {}: ([\d.]+ [KMG]iB) of weights in [\d.]+ s \([\d.]+ GB/s\)(?:, (\d+) % already on the server)?\n'


@pytest.fixture(scope='module')
def big_model(tmp_path_factory):
    """Nine tenths of its 69 MiB are in tensors above 1 MiB, the threshold for looking weights up."""
    file = tmp_path_factory.mktemp('big') / 'big.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '1', '--d', '512', '--heads',
                    '8', '--kv-heads', '4', '--ff', '24576', '--vocab', '32000', '--type', 'q8_0'], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


def test_load_is_logged_in_one_line(lab, big_model):
    server = lab.server('-c', env={'LLAMA_CACHE': lab.folder / 'cache'})
    for share in (None, (90, 100)):
        logits, log = lab.logits([server], big_model, chunks=1, more=VERBOSE), lab.processes[-1].log()
        same(logits, local_logits(lab, big_model, chunks=1))
        (size, percent), = re.findall(LOADED.format(server.endpoint), log)
        assert size.endswith('MiB')
        assert percent == '' if share is None else share[0] <= int(percent) <= share[1]
        assert '\r' not in log, 'lines are redrawn on a terminal only'


def test_weights_count_if_marked_after_the_upload(lab):
    """whisper.cpp does so."""
    server = lab.server()
    done = lab.run([sys.executable, Path(__file__).parent / 'raw_ggml.py', 'weights'],
                   env={'GGML_RPC_SERVERS': server.endpoint})
    assert json.loads(done.out.splitlines()[-1]) == {'computed': 0}
    assert len(done.lines(rf'RPC server {server.endpoint}: 2 KiB of weights in ')) == 1, done.log
