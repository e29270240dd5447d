"""The Lab: stock llama.cpp tools and RPC servers, ours and stock's, as the child processes of one test.

None outlives the test: the Lab that started it kills it, and the kernel does if the test itself is killed.
"""
import re
import signal
import socket
import subprocess
from pathlib import Path

from processes import LlamaServer, Process, Server, tail
from system import MODEL, PROMPT, REPORT, RPC_SERVER, STOCK_SERVER, TEXT, environment, eventually, free_port


class Finished:
    """What a tool said and how it ended."""

    def __init__(self, process):
        self.rc, self.out, self.err = process.popen.returncode, process.out(), process.err()
        self.log = self.out + self.err

    def lines(self, pattern):
        """Lines of its output that match."""
        return [line for line in self.log.splitlines() if re.search(pattern, line)]


class Lab:
    """The processes of one test, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self._names = 0

    def log_files(self, name):
        self._names += 1
        base = f'{self._names:02}-{name}'
        return self.folder / f'{base}.out', self.folder / f'{base}.err'

    def start(self, name, argv, ours=True, env=None, tool=True, kind=Process, cwd=None):
        process = kind(self, name, argv, environment(ours, env, tool), cwd)
        self.processes.append(process)
        return process

    def run(self, argv, ours=True, env=None, tool=True, timeout=None, rc=0, cwd=None):
        """Runs a program to its end. `rc`: the status that it must end with; None for any; never by a signal."""
        return self.expect_exit(self.start(Path(argv[0]).name, argv, ours, env, tool, cwd=cwd), timeout, rc)

    def expect_exit(self, process, timeout=None, rc=0):
        process.wait(timeout)
        done = Finished(process)
        assert done.rc >= 0, f'{process.name} was killed by {signal.Signals(-done.rc).name}:\n{tail(done.log)}'
        if rc is not None:
            assert done.rc == rc, f'{" ".join(process.argv)}\nended with {done.rc}:\n{tail(done.log)}'
        return done

    # Servers

    def server(self, *options, host='127.0.0.1', env=None, name='rpc-server', program=RPC_SERVER):
        """Ours, on a free port; or host='unix:/path'."""
        port = [] if host.startswith('unix:') else ['-p', 0]
        server = self.start(name, [program, '-H', host, *port, '-t', 1, *options], env=env, tool=False, kind=Server)
        server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
        server.wait_for(r'  sessions       : .*\n')
        return server

    def stock_server(self, *options, env=None, ours=False):
        """Stock's ggml-rpc-server, which wants to be told a port. `ours`: with our plug-in, which takes its place."""
        for _ in range(5):
            port = free_port()
            server = self.start('ggml-rpc-server', [STOCK_SERVER, '-H', '127.0.0.1', '-p', port, '-t', 1, *options],
                                ours=ours, env=env, kind=Server)
            server.endpoint = f'127.0.0.1:{port}'
            server.is_stock = not ours

            def listens():
                with socket.socket() as probe:
                    return probe.connect_ex(('127.0.0.1', port)) == 0
            eventually(lambda: not server.running() or listens(), 'ggml-rpc-server listens')
            if server.running():
                return server
        raise AssertionError('ggml-rpc-server does not start:\n' + tail(server.log()))

    # Stock tools. `servers`: whose devices to use; none: this machine's CPU, rounding as a server does.

    def where(self, servers):
        if servers:
            return ['-ngl', 99, '--rpc', ','.join(server.endpoint for server in servers)]
        return ['-ngl', 0, '-nr', '--device', 'none']

    def start_logits(self, servers, model=MODEL, ours=True, chunks=4, env=None, more=()):
        """llama-perplexity at work. Returns a function that waits for it and gives the logits of a text, as bytes."""
        self._names += 1
        file = self.folder / f'{self._names:02}-logits'
        process = self.start('llama-perplexity',
                             ['llama-perplexity', '-m', model, '-f', TEXT, '-c', 64, '-b', 64, '--chunks', chunks, '-t',
                              1, '--no-warmup', *self.where(servers), '--save-all-logits', file, *more],
                             ours=ours and bool(servers), env=env)

        def finish():
            self.expect_exit(process)
            logits = file.read_bytes()
            file.unlink()
            return logits
        return finish

    def logits(self, servers, *args, **kwargs):
        return self.start_logits(servers, *args, **kwargs)()

    def llama_server(self, servers, model=MODEL, ours=True, slots=2, env=None, more=()):
        for _ in range(5):
            port = free_port()
            llama = self.start('llama-server',
                               ['llama-server', '-m', model, '--host', '127.0.0.1', '--port', port, '-t', 1, '-np',
                                slots, '-c', 512 * slots, '--no-warmup', '--no-webui', *self.where(servers), *more],
                               ours=ours and bool(servers), env=env, kind=LlamaServer)
            llama.port = port
            eventually(lambda: not llama.running() or llama.request('/health', timeout=2)[0] == 200,
                       'llama-server has loaded the model')
            if llama.running():
                return llama
            if 'bind' not in llama.log():
                break
        raise AssertionError('llama-server does not start:\n' + tail(llama.log()))

    def endless_completion(self, servers, ours=True, env=None):
        """A llama-completion in mid-generation, which never ends by itself."""
        client = self.start('llama-completion',
                            ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 1000000, '-c', 256,
                             '--context-shift', '--ignore-eos', '--temp', 0, '-t', 1, '-no-cnv', '--no-warmup',
                             '--no-display-prompt', '--simple-io', *self.where(servers)], ours=ours, env=env)
        eventually(lambda: len(client.out()) > 100 or not client.running(), 'llama-completion says something')
        assert client.running(), f'llama-completion ended with {client.popen.returncode}:\n{tail(client.log())}'
        return client

    def devices(self, endpoints, env=None, ours=True):
        """What llama-bench sees: (its list of devices, everything it said)."""
        done = self.run(['llama-bench', '--rpc', endpoints, '--list-devices'], ours=ours, env=env)
        listed = done.log.partition('Available devices:')[2]
        return re.findall(r'^\s+(RPC\d+): (\S+) ', listed, re.M), done

    # The end

    def close(self):
        for process in reversed(self.processes):
            if process.running():
                process.popen.terminate() if isinstance(process, Server) and not process.is_stock else process.kill()
        for process in self.processes:
            try:
                process.popen.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def sanitizer_reports(self):
        return [f'{process.name} (pid {process.pid}):\n{tail(process.log()[found.start():], 6000)}'
                for process in self.processes if (found := REPORT.search(process.log()))]

    def story(self):
        """For a failed test: what every process was asked and what it said."""
        return [(f'{" ".join(process.argv)} -> {process.popen.returncode}', tail(process.log()))
                for process in self.processes]


# Answers of this machine's own CPU, computed once for each test process.

_local = {}


def local(kind, compute):
    if kind not in _local:
        _local[kind] = compute()
    return _local[kind]


def local_logits(lab, model=MODEL, chunks=4, more=()):
    return local(('logits', str(model), chunks, *more), lambda: lab.logits([], model, chunks=chunks, more=more))


def local_text(lab, prompts, n=32):
    """Greedy texts of prompts, by llama-server without RPC."""
    def compute():
        llama = lab.llama_server([], slots=1)
        texts = [llama.complete(prompt, n) for prompt in prompts]
        llama.kill()
        return texts
    return local(('text', tuple(prompts), n), compute)


def same(got, wanted):
    """Logits are long: say where they differ, not what they are."""
    assert len(wanted) > 10000, 'the local logits are empty'
    assert len(got) == len(wanted), f'{len(got)} bytes of logits instead of {len(wanted)}'
    if got != wanted:
        differing = sum(a != b for a, b in zip(got, wanted))
        first = next(i for i, (a, b) in enumerate(zip(got, wanted)) if a != b)
        raise AssertionError(f'{differing} of {len(wanted)} bytes of logits differ, the first at {first}')
