"""Servers and llama-bench runs, for the experiments and the demonstration. All processes end with the caller."""
import ctypes
import glob
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get('CARAVAN_BIN', ROOT / 'build' / 'bin'))
PLUGIN = BIN / 'libggml-rpc-caravan.so'
PR_SET_PDEATHSIG = 1
START_SECONDS = 20


def end_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stock_server_program():
    """The path of llama.cpp's own server; None if it is not installed."""
    found = glob.glob('/usr/libexec/*/llama/bin/ggml-rpc-server') + glob.glob('/usr/bin/ggml-rpc-server')
    return found[0] if found else None


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Server:
    """A process of Caravan's or the stock RPC server."""

    def __init__(self, *options, stock=False, threads=1, environment=None):
        program = stock_server_program() if stock else BIN / 'rpc-server'
        port = free_port() if stock else 0
        self.log = []
        self.process = subprocess.Popen([str(program), '-p', str(port), '-t', str(threads), *options],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, bufsize=1, preexec_fn=end_with_parent,
                                        env={**os.environ, **(environment or {})})
        deadline = time.monotonic() + START_SECONDS
        self.endpoint = None
        for line in self.process.stdout:
            self.log.append(line)
            if match := re.search(r'endpoint\s*: (\S+)', line):
                self.endpoint = match[1]
            if 'transport' in line and self.endpoint or time.monotonic() > deadline:
                break
        if not self.endpoint:
            self.stop()
            raise RuntimeError(f'{program} did not start:\n' + ''.join(self.log))
        # The pipe is not read from here on; it is large enough for the log of an experiment.
        while time.monotonic() < deadline:
            host, port = self.endpoint.rsplit(':', 1)
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.02)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def caravan_environment():
    """The environment in which an unmodified tool loads Caravan's plug-in."""
    return {**os.environ, 'GGML_BACKEND_PATH': str(PLUGIN)}


def stock_environment():
    return {key: value for key, value in os.environ.items() if key != 'GGML_BACKEND_PATH'}


def real_tool(name):
    """The installed tool, not Caravan's launcher of the same name."""
    for folder in os.environ['PATH'].split(':'):
        path = pathlib.Path(folder) / name
        if path.exists() and path.resolve().parent != BIN.resolve():
            return str(path)
    raise RuntimeError(f'{name} is not installed')


def random_model(file, **shape):
    """A llama of random weights: layers, d, heads, kv_heads, ff, vocab, type, as options of make_models.py --bench."""
    options = [word for name, value in shape.items() for word in (f'--{name.replace("_", "-")}', str(value))]
    subprocess.run([sys.executable, ROOT / 'tests' / 'models' / 'make_models.py', '--bench', '--out', file, *options],
                   check=True, stdout=subprocess.DEVNULL)
    return file


def need_stock_server():
    if stock_server_program() is None:
        sys.exit('the stock ggml-rpc-server is not installed: nothing to compare with')


def llama_bench(model, *options, endpoints=(), caravan=True, under=(), timeout=300):
    """Runs llama-bench once, as a child of the command `under`. Returns its result rows (dictionaries)."""
    command = [*map(str, under), real_tool('llama-bench'), '-m', str(model), '-o', 'json', *map(str, options)]
    command += ['--rpc', ','.join(endpoints), '-ngl', '99'] if endpoints else ['-ngl', '0', '--device', 'none']
    done = subprocess.run(command, env=caravan_environment() if caravan else stock_environment(), text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(command)} ended with {done.returncode}:\n{done.stderr}')
    return json.loads(done.stdout)
