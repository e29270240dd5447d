"""rpc-server -c and --model-dir: cached weights are not uploaded again, and damaged ones are not used."""
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
    """A model with four tensors above 10 MiB, the lookup threshold of stock clients: 3 of 12.75 MiB, 1 of 16.6 MiB."""
    file = tmp_path_factory.mktemp('big') / 'big.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '1', '--d', '512', '--heads',
                    '8', '--kv-heads', '4', '--ff', '24576', '--vocab', '32000', '--type', 'q8_0'], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


class Cache:
    """Servers and clients that use one cache directory."""

    def __init__(self, lab, model):
        self.lab, self.model, self.folder = lab, model, lab.folder / 'cache'

    def server(self, *options):
        return self.lab.server('-c', *options, env={'LLAMA_CACHE': self.folder})

    def load(self, server, ours=True):
        """Loads the model and compares the logits. Returns the MiB that the server received."""
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


def test_second_load_is_served_from_the_cache(cache):
    server = cache.server()
    first = cache.load(server)
    assert first >= 54 and len(cache.blobs()) == BIG
    assert cache.load(server) <= first - 54, 'the same server'
    assert cache.load(cache.server()) <= first - 54, 'a new server'


@pytest.mark.skipif(bool(SANITIZE), reason='sanitized processes are not confined')
@pytest.mark.skipif(landlock_version() < 3, reason='blobs are mapped only if the store can be sealed')
@pytest.mark.parametrize('ours', [True, False])
def test_sessions_map_cached_weights(cache, ours):
    server = cache.server()
    cache.load(server, ours)
    clients = [cache.lab.llama_server([server], cache.model, ours=ours) for _ in range(2 if ours else 1)]
    mapped = [len(set(re.findall('/blobs/(.*)', Path(f'/proc/{worker}/maps').read_text()))) for worker in server.workers()]
    assert sorted(mapped) == [0] + [BIG] * len(clients), 'the spare worker maps none'
    shutil.rmtree(cache.folder)
    status, answer = clients[0].request('/completion', completion('a', 8))
    assert status == 200, answer


def test_stock_client_uses_the_cache(cache):
    server = cache.server()
    first = cache.load(server, ours=False)
    assert first >= 54
    assert cache.load(server, ours=False) <= first - 54
    assert cache.load(server, ours=True) <= first - 54, 'a Caravan client finds blobs that a stock client uploaded'


def test_stock_client_finds_what_a_caravan_client_uploaded(cache):
    server = cache.server()
    first = cache.load(server)
    index = cache.folder / 'rpc' / 'caravan' / 'index'
    assert not list(index.iterdir()), 'no stock client has asked yet'
    assert cache.load(server, ours=False) <= first - 54
    assert len(list(index.iterdir())) == len(cache.blobs()) == BIG


def test_stock_server_caches_uploads_of_a_caravan_client(cache):
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
def test_damaged_blob_is_detected_and_replaced(cache, damage):
    server = cache.server()
    first = cache.load(server)
    damage(cache.blobs()[0])
    repaired = cache.load(server)
    assert 12 <= repaired <= first - 35, 'one tensor was uploaded again'
    # A blob of the wrong size counts as missing, without a warning.
    assert server.count('warning: weight cache: ') == (1 if damage is alter else 0)
    assert cache.load(server) <= first - 54


def test_stock_files_in_the_same_directory_are_kept(cache):
    stock = cache.folder / 'rpc' / '0123456789abcdef'
    stock.parent.mkdir(parents=True)
    stock.write_bytes(b'nonsense')
    cache.load(cache.server())
    assert stock.read_bytes() == b'nonsense'


def test_nothing_is_cached_without_the_option(lab, big_model):
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


def test_default_limit_depends_on_the_disk(cache):
    cache.server().wait_for(r'local cache    : \S+ \(at most [\d.]+ [GT]iB\)')
    cache.server('--cache-size', '0').wait_for(r'local cache    : \S+ \(no limit\)')


def test_full_disk_does_not_affect_sessions(cache):
    """A limit on the file size stands in for a full disk: writing fails within a file."""
    server = cache.lab.start('rpc-server', ['prlimit', f'--fsize={8 << 20}', RPC_SERVER, '-p', 0, '-t', 1, '-c'],
                             env={'LLAMA_CACHE': cache.folder}, tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    assert cache.load(server) >= 54
    assert server.count('warning: weight cache: this session stores no more weights: ') == 1
    assert cache.blobs() == [] and list((cache.folder / 'rpc' / 'caravan' / 'tmp').iterdir()) == []


def test_unusable_cache_does_not_affect_sessions(cache):
    server = cache.server()
    first = cache.load(server)
    shutil.rmtree(cache.folder / 'rpc')
    (cache.folder / 'rpc').write_text('no folder')
    for _ in range(3):  # the worker of the first load was started before the damage
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
    """A model directory of the server: the clients' model under another name, and two invalid files."""
    folder = cache.lab.folder / 'models'
    (folder / 'below').mkdir(parents=True)
    (folder / 'below' / 'its-own-name.gguf').symlink_to(cache.model)
    (folder / 'cut.gguf').write_bytes(cache.model.read_bytes()[:1 << 20])
    (folder / 'no-model.gguf').write_text('hello')
    return folder


def index_report(server):
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


def test_first_session_finds_model_files_behind_links(cache, models):
    """The link leads out of the directory, so the confined worker that is started first needs access to its target."""
    server = server_with(cache, '--model-dir', models)
    index_report(server)
    done = cache.lab.run(['llama-completion', '-m', cache.model, '-p', 'a', '-n', 1, '-no-cnv', '-fit', 'off', '-t', 1,
                          '--no-warmup', *cache.lab.where([server])])
    assert done.rc == 0
    server.wait_idle()
    assert server.sessions()[0][0] == 1 and sum(mib for _, _, _, mib in server.sessions()) <= 4


@pytest.mark.parametrize('ours', [True, False], ids=['caravan client', 'stock client'])
def test_weights_in_model_files_are_not_uploaded(cache, models, ours):
    server = server_with(cache, '--model-dir', models)
    assert index_report(server) == (5, 1, 5)
    assert cache.load(server, ours=ours) <= 4
    assert not (cache.folder / 'rpc' / 'caravan' / 'blobs').exists(), 'no store without -c'
    assert server.count('warning: model-dir: skipping .*/cut.gguf: it is truncated') == 1
    assert server.count('warning: model-dir: skipping .*/no-model.gguf: ') == 1


def test_model_files_are_hashed_once(cache, models):
    server = server_with(cache, '--model-dir', models)
    assert index_report(server) == (5, 1, 5)
    assert server.stop() == 0
    server = server_with(cache, '--model-dir', models)
    assert index_report(server) == (5, 1, 0)
    assert cache.load(server) <= 4


def test_weights_in_model_files_are_not_stored(cache, models):
    server = cache.server('--model-dir', models)
    index_report(server)
    assert cache.load(server) <= 4
    assert cache.blobs() == []


def test_changed_model_file_is_not_used(cache, models):
    copy = models / 'below' / 'its-own-name.gguf'
    copy.unlink()
    shutil.copy(cache.model, copy)
    server = cache.server('--model-dir', models)
    assert index_report(server) == (5, 1, 5)
    before = copy.stat()
    with open(copy, 'r+b') as file:  # within the second tensor that is looked up
        file.seek(40_000_000)
        file.write(b'nonsense')
    assert cache.load(server) >= 54, 'the stamp differs'
    shutil.rmtree(cache.folder / 'rpc' / 'caravan' / 'blobs')
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert 12 <= cache.load(server) <= 20, 'the stamp is unchanged; the digest of one tensor differs'
    assert server.count('warning: model-dir: ignoring the tensor at byte .* its BLAKE3 digest does not match') == 1


def test_missing_model_directory_is_an_error(lab):
    done = lab.run([RPC_SERVER, '-p', 0, '--model-dir', lab.folder / 'none'], tool=False, rc=1, timeout=30)
    assert done.err == f'error: --model-dir {lab.folder}/none: No such file or directory\n'


def test_indexing_ends_with_the_server(cache):
    """The indexer exits with a server that is killed or stopped, even while it hashes a file."""
    folder = cache.lab.folder / 'models'
    folder.mkdir()
    header = sparse_model(folder / 'sparse.gguf', 64 << 30)
    assert header < 1 << 20
    server = server_with(cache, '--model-dir', folder)
    eventually(lambda: len(server.workers()) == 2, 'the spare worker and the indexer run')
    server.kill()  # checks that all child processes exit
    server = server_with(cache, '--model-dir', folder)
    workers = eventually(lambda: len(server.workers()) == 2 and server.workers(), 'both run again')
    assert server.stop() == 0
    eventually(lambda: not any(is_alive(worker) for worker in workers), 'both exit after an orderly stop')


def sparse_model(path, size):
    """Writes a sparse model of one tensor of `size` zero bytes. Returns the offset of the tensor."""
    with open(path, 'wb') as file:
        file.write(b'GGUF' + struct.pack('<IQQ', 3, 1, 0) + struct.pack('<Q', 1) + b't' +
                   struct.pack('<IQIQ', 1, size, 24, 0))
        start = (file.tell() + 31) // 32 * 32
        file.truncate(start + size)
    return start
