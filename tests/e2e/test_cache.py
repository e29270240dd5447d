"""rpc-server -c: what was loaded once is not sent again, and what lies damaged on disk is never computed with."""
import subprocess
import sys

import pytest

from harness import local_logits, same
from system import MAKE_MODELS, PATIENCE

BIG = 4


@pytest.fixture(scope='module')
def big_model(tmp_path_factory):
    """Four tensors above the 10 MiB from which weights are looked up by hash: 3 of 12.75 MiB, 1 of 16.6."""
    file = tmp_path_factory.mktemp('big') / 'big.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '1', '--d', '512', '--heads',
                    '8', '--kv-heads', '4', '--ff', '24576', '--vocab', '32000', '--type', 'q8_0'], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


class Cache:
    """Runs of a fresh server and a fresh client over one folder."""

    def __init__(self, lab, model):
        self.lab, self.model, self.folder = lab, model, lab.folder / 'cache'

    def server(self):
        return self.lab.server('-c', env={'LLAMA_CACHE': self.folder})

    def load(self, server, ours=True):
        """Loads the model and compares the logits. Returns how many MiB the server was sent."""
        server.wait_idle()
        before = sum(mib for _, _, _, mib in server.sessions())
        same(self.lab.logits([server], self.model, ours=ours, chunks=1), local_logits(self.lab, self.model, chunks=1))
        server.wait_idle()
        return sum(mib for _, _, _, mib in server.sessions()) - before

    def blobs(self):
        return sorted((self.folder / 'rpc' / 'caravan' / 'blobs').iterdir())


@pytest.fixture
def cache(lab, big_model):
    return Cache(lab, big_model)


def test_second_load_is_not_sent(cache):
    server = cache.server()
    first = cache.load(server)
    assert first >= 54 and len(cache.blobs()) == BIG
    assert cache.load(server) <= first - 54, 'with the same server'
    assert cache.load(cache.server()) <= first - 54, 'with a new server'


def test_stock_client_uses_it_too(cache):
    server = cache.server()
    first = cache.load(server, ours=False)
    assert first >= 54
    assert cache.load(server, ours=False) <= first - 54
    assert cache.load(server, ours=True) <= first - 54, 'what a stock client filled serves ours'


def test_stock_server_keeps_what_our_client_sends(cache):
    server = cache.lab.stock_server('-c', env={'LLAMA_CACHE': cache.folder})
    for _ in range(2):
        same(cache.lab.logits([server], cache.model, chunks=1), local_logits(cache.lab, cache.model, chunks=1))
    assert [file for file in (cache.folder / 'rpc').iterdir() if file.stat().st_size > 10 << 20]


def alter(file):
    file.chmod(0o600)
    with open(file, 'r+b') as blob:
        blob.seek(file.stat().st_size // 2)
        byte = blob.read(1)
        blob.seek(-1, 1)
        blob.write(bytes([byte[0] ^ 0x10]))


def truncate(file):
    file.chmod(0o600)
    with open(file, 'r+b') as blob:
        blob.truncate(file.stat().st_size // 2)


@pytest.mark.parametrize('damage', [alter, truncate, lambda file: file.unlink()], ids=['altered', 'truncated', 'gone'])
def test_damage_is_noticed_and_mended(cache, damage):
    server = cache.server()
    first = cache.load(server)
    damage(cache.blobs()[0])
    mended = cache.load(server)
    assert 12 <= mended <= first - 35, 'one tensor was sent again'
    assert server.count('warning: weight cache: ') == 1
    assert cache.load(server) <= first - 54


def test_stock_files_in_the_same_folder_are_left_alone(cache):
    stock = cache.folder / 'rpc' / '0123456789abcdef'
    stock.parent.mkdir(parents=True)
    stock.write_bytes(b'nonsense')
    cache.load(cache.server())
    assert stock.read_bytes() == b'nonsense'


def test_without_the_option_nothing_is_written(lab, big_model):
    folder = lab.folder / 'cache'
    server = lab.server(env={'LLAMA_CACHE': folder})
    same(lab.logits([server], big_model, chunks=1), local_logits(lab, big_model, chunks=1))
    assert not folder.exists()
