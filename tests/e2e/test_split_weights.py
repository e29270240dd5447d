"""Weights that -sm tensor splits: parts in the servers' caches and model files are not uploaded again."""
import json
import subprocess
import sys

import pytest

from harness import local
from system import MAKE_MODELS, PATIENCE, PROMPT

TENSOR = ['-sm', 'tensor', '-fa', 'on', '-fit', 'off']


@pytest.fixture(scope='module', params=['q8_0', 'f32'])
def model(request, tmp_path_factory):
    """A model of 4 large tensors that are split among the servers: three by rows, one by columns."""
    file = tmp_path_factory.mktemp('split') / f'{request.param}.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '1', '--d', '256', '--heads',
                    '4', '--kv-heads', '2', '--ff', '40960', '--vocab', '16000', '--type', request.param], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


class Splits:
    """Loads of a model that two servers share. Each server has a cache of its own, and the client one for digests."""

    def __init__(self, lab, model, *options):
        self.lab, self.model = lab, model
        self.servers = [lab.server(*options, env={'LLAMA_CACHE': lab.folder / name}) for name in 'ab']

    def load(self, *more):
        """Computes and compares. Returns the share of the weights that the servers found, and which was not sent."""
        stats = self.lab.folder / 'stats'
        done = self.lab.run(['llama-completion', '-m', self.model, '-p', PROMPT, '-n', 8, '--temp', 0, '-no-cnv', '-t', 1,
                             '--no-warmup', '--no-display-prompt', *self.lab.where(self.servers), *TENSOR, *more],
                            env={'GGML_RPC_STATS': stats, 'LLAMA_CACHE': self.lab.folder / 'client'})
        assert done.out == self.local_text()
        sessions = [json.loads(line) for line in stats.read_text().splitlines()]
        stats.unlink()
        weights = sum(session['weights']['bytes'] for session in sessions)
        assert weights > 0.8 * self.model.stat().st_size
        found = sum(session['weights']['from_cache'] for session in sessions)
        sent = sum(session['bytes_sent'] - session['since_load']['bytes_sent'] for session in sessions)
        assert weights - found < sent < weights - found + 1_000_000, 'graphs take some bytes, too'
        return found / weights

    def local_text(self):
        return local(('split', self.model), lambda: self.lab.run(
            ['llama-completion', '-m', self.model, '-p', PROMPT, '-n', 8, '--temp', 0, '-no-cnv', '-t', 1, '--no-warmup',
             '--no-display-prompt', *self.lab.where([])], ours=False).out)

    def blobs(self, name):
        return list((self.lab.folder / name / 'rpc' / 'caravan' / 'blobs').iterdir())


def test_second_load_is_served_from_the_caches(lab, model):
    splits = Splits(lab, model, '-c')
    assert splits.load() == 0
    assert splits.load() > 0.99
    assert splits.load('-ts', '1,2') < 0.01, 'other parts'
    assert splits.load('-ts', '1,2') > 0.99
    assert splits.load() > 0.99


def test_first_load_is_served_from_model_files(lab, model):
    splits = Splits(lab, model, '--model-dir', model.parent)
    for server in splits.servers:
        server.wait_for(r'model-dir: \d+ tensors of 1 files?, .* can be loaded from here')
    assert splits.load() > 0.99
    assert splits.load('-ts', '1,2') > 0.99
    assert sum(server.count(r'weights: 0 MiB received, 0 MiB from the cache, [1-9]\d* MiB from model files')
               for server in splits.servers) == 4


def test_damaged_parts_are_detected_and_replaced(lab, model):
    splits = Splits(lab, model, '-c')
    splits.load()
    for blob in splits.blobs('a'):
        blob.chmod(0o600)
        with open(blob, 'r+b') as file:
            file.seek(blob.stat().st_size // 2)
            file.write(b'nonsense')
    assert 0.45 < splits.load() < 0.55
    assert splits.servers[0].count('warning: weight cache: removing ') == 4
    assert splits.load() > 0.99
