"""rpc-server -c: what was loaded once is not sent again, and what lies damaged on disk is never computed with."""
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from harness import local_logits, same
from processes import Server, completion
from system import MAKE_MODELS, PATIENCE, RPC_SERVER, SANITIZE, eventually, is_alive, landlock_version

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

    def server(self, *options):
        return self.lab.server('-c', *options, env={'LLAMA_CACHE': self.folder})

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


@pytest.mark.skipif(bool(SANITIZE) or landlock_version() < 3, reason='nothing is mapped where it cannot be sealed')
@pytest.mark.parametrize('ours', [True, False])
def test_sessions_share_what_is_in_the_cache(cache, ours):
    server = cache.server()
    cache.load(server, ours)
    clients = [cache.lab.llama_server([server], cache.model, ours=ours) for _ in range(2 if ours else 1)]
    mapped = [len(set(re.findall('/blobs/(.*)', Path(f'/proc/{worker}/maps').read_text()))) for worker in server.workers()]
    assert sorted(mapped) == [0] + [BIG] * len(clients), 'of the spare worker, and of those that serve'
    shutil.rmtree(cache.folder)
    status, answer = clients[0].request('/completion', completion('a', 8))
    assert status == 200, answer


def test_stock_client_uses_it_too(cache):
    server = cache.server()
    first = cache.load(server, ours=False)
    assert first >= 54
    assert cache.load(server, ours=False) <= first - 54
    assert cache.load(server, ours=True) <= first - 54, 'what a stock client filled serves ours'


def test_what_our_client_filled_serves_a_stock_one(cache):
    server = cache.server()
    first = cache.load(server)
    index = cache.folder / 'rpc' / 'caravan' / 'index'
    assert not list(index.iterdir()), 'nobody has asked by the stock hash'
    assert cache.load(server, ours=False) <= first - 54
    assert len(list(index.iterdir())) == len(cache.blobs()) == BIG


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
    # A blob of another size is as good as none, and the upload takes its place.
    assert server.count('warning: weight cache: ') == (1 if damage is alter else 0)
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


# --- limits ----------------------------------------------------------------------------------------------------------

def test_the_cache_stays_below_its_limit(cache):
    server = cache.server('--cache-size', '32M')
    server.wait_for(rf'local cache    : {cache.folder}/rpc \(at most 32 MiB\)')
    first = cache.load(server)
    assert first >= 54 and 1 <= len(cache.blobs()) <= 2
    assert cache.load(server) >= first - 32
    assert sum(file.stat().st_size for file in cache.blobs()) <= 32 << 20
    assert server.count('warning') == 2
    assert server.count(r'the weights of this session do not fit into 32 MiB, .* larger --cache-size \(session \d+\)') == 2


def test_by_default_the_limit_is_a_share_of_the_disk(cache):
    cache.server().wait_for(r'local cache    : \S+ \(at most [\d.]+ [GT]iB\)')
    cache.server('--cache-size', '0').wait_for(r'local cache    : \S+ \(no limit\)')


def test_a_disk_that_takes_no_more_costs_nobody_anything(cache):
    """A limit on the size of files, as a full disk is: writing fails in mid-file."""
    server = cache.lab.start('rpc-server', ['prlimit', f'--fsize={8 << 20}', RPC_SERVER, '-p', 0, '-t', 1, '-c'],
                             env={'LLAMA_CACHE': cache.folder}, tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    assert cache.load(server) >= 54
    assert server.count('warning: weight cache: nothing more is kept') == 1
    assert cache.blobs() == [] and list((cache.folder / 'rpc' / 'caravan' / 'tmp').iterdir()) == []


def test_a_cache_that_breaks_stops_nobody(cache):
    server = cache.server()
    first = cache.load(server)
    shutil.rmtree(cache.folder / 'rpc')
    (cache.folder / 'rpc').write_text('no folder')
    for _ in range(3):  # the first is served by the worker that was there before
        assert cache.load(server) == first
    assert server.count('warning: weight cache: .*; sessions go on, and weights are not kept') == 1
    (cache.folder / 'rpc').unlink()
    cache.load(server)
    server.wait_for('weight cache: weights are kept again')
    cache.load(server)
    assert cache.load(server) <= first - 54


# --- model files -----------------------------------------------------------------------------------------------------

KNOWN = r'model-dir: (\d+) tensors? of (\d+) files?, .*, can be loaded from here \((\d+) of them hashed now\)'


@pytest.fixture
def models(cache):
    """A server's own models: the one that the clients use is among them, and what no program should choke on."""
    folder = cache.lab.folder / 'models'
    (folder / 'below').mkdir(parents=True)
    (folder / 'below' / 'its-own-name.gguf').symlink_to(cache.model)
    (folder / 'cut.gguf').write_bytes(cache.model.read_bytes()[:1 << 20])
    (folder / 'no-model.gguf').write_text('hello')
    return folder


def known(server):
    return tuple(int(number) for number in server.wait_for(KNOWN).groups())


def test_model_files_without_large_tensors_are_reported(lab):
    empty = lab.folder / 'empty'
    empty.mkdir()
    server = lab.server('--model-dir', empty, env={'LLAMA_CACHE': lab.folder / 'cache'})
    server.wait_for(r'warning: model-dir: there is no \*\.gguf file\n')
    subprocess.run([sys.executable, MAKE_MODELS, empty], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    count = len(list(empty.glob('*.gguf')))
    server = lab.server('--model-dir', empty, env={'LLAMA_CACHE': lab.folder / 'cache'})
    server.wait_for(rf'warning: model-dir: nothing can be loaded from here: no tensor of more than 1 MiB in {count} model files\n')


def server_with(cache, *options):
    return cache.lab.server(*options, env={'LLAMA_CACHE': cache.folder})


def test_model_files_behind_links_are_found_by_the_first_session(cache, models):
    """A link that leads out of the folder: the worker that was there first could not follow it."""
    server = server_with(cache, '--model-dir', models)
    known(server)
    done = cache.lab.run(['llama-completion', '-m', cache.model, '-p', 'a', '-n', 1, '-no-cnv', '-fit', 'off', '-t', 1,
                          '--no-warmup', *cache.lab.where([server])])
    assert done.rc == 0
    server.wait_idle()
    assert server.sessions()[0][0] == 1 and sum(mib for _, _, _, mib in server.sessions()) <= 4


@pytest.mark.parametrize('ours', [True, False], ids=['our client', 'stock client'])
def test_weights_in_model_files_are_not_sent(cache, models, ours):
    server = server_with(cache, '--model-dir', models)
    assert known(server) == (5, 1, 5)
    assert cache.load(server, ours=ours) <= 4
    assert not (cache.folder / 'rpc' / 'caravan' / 'blobs').exists(), 'nothing is kept without -c'
    assert server.count('warning: model-dir: .*/cut.gguf is left out: it is cut off') == 1
    assert server.count('warning: model-dir: .*/no-model.gguf is left out') == 1


def test_model_files_are_hashed_once(cache, models):
    server = server_with(cache, '--model-dir', models)
    assert known(server) == (5, 1, 5)
    assert server.stop() == 0
    server = server_with(cache, '--model-dir', models)
    assert known(server) == (5, 1, 0)
    assert cache.load(server) <= 4


def test_with_both_nothing_that_is_in_a_model_file_is_kept(cache, models):
    server = cache.server('--model-dir', models)
    known(server)
    assert cache.load(server) <= 4
    assert cache.blobs() == []


def test_a_model_file_that_changed_is_not_computed_with(cache, models):
    copy = models / 'below' / 'its-own-name.gguf'
    copy.unlink()
    shutil.copy(cache.model, copy)
    server = cache.server('--model-dir', models)
    assert known(server) == (5, 1, 5)
    before = copy.stat()
    with open(copy, 'r+b') as file:  # within the second of the tensors that is used
        file.seek(40_000_000)
        file.write(b'nonsense')
    assert cache.load(server) >= 54, 'the file is not what was hashed'
    shutil.rmtree(cache.folder / 'rpc' / 'caravan' / 'blobs')
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert 12 <= cache.load(server) <= 20, 'it looks as before: only the bytes of that one tensor tell'
    assert server.count('warning: model-dir: the tensor at byte .* its bytes were altered') == 1


def test_no_such_model_folder(lab):
    done = lab.run([RPC_SERVER, '-p', 0, '--model-dir', lab.folder / 'none'], tool=False, rc=1, timeout=30)
    assert done.err == f'error: --model-dir {lab.folder}/none: No such file or directory\n'


def test_indexing_ends_with_the_server(cache):
    """A server that is killed takes its helpers along, in mid-file too."""
    folder = cache.lab.folder / 'models'
    folder.mkdir()
    header = sparse_model(folder / 'sparse.gguf', 64 << 30)
    assert header < 1 << 20
    server = server_with(cache, '--model-dir', folder)
    eventually(lambda: len(server.workers()) == 2, 'a spare worker and the indexer run')
    server.kill()  # and all of them end: it looks
    server = server_with(cache, '--model-dir', folder)
    workers = eventually(lambda: len(server.workers()) == 2 and server.workers(), 'both run again')
    assert server.stop() == 0
    eventually(lambda: not any(is_alive(worker) for worker in workers), 'they end with an orderly stop too')


def sparse_model(path, size):
    """One tensor of `size` bytes of zeroes that take no room. Returns where it begins."""
    with open(path, 'wb') as file:
        file.write(b'GGUF' + struct.pack('<IQQ', 3, 1, 0) + struct.pack('<Q', 1) + b't' +
                   struct.pack('<IQIQ', 1, size, 24, 0))
        start = (file.tell() + 31) // 32 * 32
        file.truncate(start + size)
    return start
