"""RDMA over Soft-RoCE: rpc-server in one lab machine, unmodified llama.cpp tools with the plug-in in the other."""
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
import lab

BIN = pathlib.Path(os.environ['CARAVAN_BIN'])          # built with GGML_RPC_RDMA=ON
TCP_BIN = os.environ.get('CARAVAN_TCP_BIN', '')        # built without it; "" if there is no such build
if not os.path.exists(f'{TCP_BIN}/rpc-server'):
    TCP_BIN = ''
MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
TEXT = ROOT / 'models' / 'sample.txt'
PORT = 50052
PERPLEXITY = f'/usr/bin/llama-perplexity -m {MODEL} -f {TEXT} -c 64 --chunks 2 -t 1 --no-warmup -nr -lv 4'


def is_slow():
    """True for emulated machines, a tenth as fast: only the most important tests run on them."""
    try:
        return lab.choose().name == 'tcg'
    except lab.Unavailable:
        return False


not_emulated = pytest.mark.skipif(is_slow(), reason='too slow in an emulated machine')


class Lab:
    """Caravan on a pair of machines."""

    def __init__(self, pair):
        self.pair, self.server_machine, self.client_machine = pair, pair.a, pair.b
        self._servers, self._files = [], 0

    def server(self, binary=BIN, host='0.0.0.0', port=PORT, options='', **start):
        process = self.server_machine.start(f'exec {binary}/rpc-server -H {host} -p {port} -t 1 {options}', **start)
        process.wait_for('sessions ')
        self._servers.append(process)
        return process

    def server_in_client_machine(self, port=PORT):
        process = self.client_machine.start(f'exec {BIN}/rpc-server -H 0.0.0.0 -p {port} -t 1')
        process.wait_for('sessions ')
        self._servers.append(process)
        return process

    def stop_servers(self):
        for process in self._servers:
            if process.returncode is None:
                process.kill()
                process.wait()
        self._servers.clear()

    def environment(self, binary=BIN, **more):
        return {'GGML_BACKEND_PATH': f'{binary}/libggml-rpc-caravan.so', 'LD_PRELOAD': str(BIN / 'libdrain-log.so'), **more}

    def logits(self, endpoint='', binary=BIN, env=None, **run):
        """Computes logits on the client machine, over RPC if there is an endpoint, else locally. Returns (logits as bytes,
        output of the tool)."""
        self._files += 1
        file = self.pair.shared / f'logits-{self._files}'
        where = f'-ngl 99 --rpc {endpoint}' if endpoint else '--device none'
        code, output = self.client_machine.run(f'{PERPLEXITY} {where} --save-all-logits {file}', timeout=120,
                                               env=self.environment(binary, **(env or {})), **run)
        assert code == 0, output
        return file.read_bytes(), output

    def log(self):
        return ''.join(process.output() for process in self._servers)


def machines(**configs):
    try:
        lab.choose()
    except lab.Unavailable as error:
        pytest.skip(str(error))
    return lab.Pair(**configs)


@pytest.fixture(scope='session')
def pair():
    with machines() as made:
        yield made


@pytest.fixture(scope='session')
def local(pair):
    """The logits computed without RPC."""
    return Lab(pair).logits()[0]


@pytest.fixture
def rig(pair):
    made = Lab(pair)
    yield made
    made.stop_servers()
