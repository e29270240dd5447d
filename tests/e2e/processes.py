"""Running programs: any, an RPC server, a llama-server. Their output goes to files."""
import functools
import json
import re
import subprocess
import threading
import urllib.error
import urllib.request

from system import PATIENCE, PROMPT, before_exec, children, eventually, is_alive


def tail(text, size=4000):
    return text if len(text) <= size else '...' + text[-size:]


class Process:
    """A running program. Its stdout and stderr go to files, read with out(), err() and log() (both)."""

    def __init__(self, lab, name, argv, env, cwd=None):
        # The kernel kills a child when the thread that started it ends.
        assert threading.current_thread() is threading.main_thread()
        self.name, self.argv = name, [str(word) for word in argv]
        self._out, self._err = lab.log_files(name)
        with open(self._out, 'wb') as out, open(self._err, 'wb') as err:
            self.popen = subprocess.Popen(self.argv, env=env, cwd=cwd or lab.folder, stdin=subprocess.DEVNULL,
                                          stdout=out, stderr=err, preexec_fn=before_exec)
        self.pid = self.popen.pid

    def out(self):
        return self._out.read_text(errors='replace')

    def err(self):
        return self._err.read_text(errors='replace')

    def log(self):
        return self.out() + self.err()

    def count(self, pattern):
        return len(re.findall(pattern, self.log()))

    def running(self):
        return self.popen.poll() is None

    def wait_for(self, pattern, timeout=None):
        """Until its output matches; returns the match."""
        def look():
            found = re.search(pattern, self.log())
            assert found or self.running(), (f'{self.name} ended with {self.popen.returncode} before it said '
                                             f'/{pattern}/:\n{tail(self.log())}')
            return found
        return eventually(look, f'{self.name} says /{pattern}/', timeout)

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout=None):
        """Its exit status: negative for a signal, as subprocess has it."""
        try:
            return self.popen.wait(timeout or PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'{self.name} has not ended within {timeout or PATIENCE} s:\n'
                                 f'{tail(self.log())}') from None

    def kill(self):
        """At once, as a crash or a power failure would."""
        if self.running():
            self.popen.kill()
        self.popen.wait(PATIENCE)

    def stop(self):
        """As a user would. Returns the exit status."""
        if self.running():
            self.popen.terminate()
        return self.wait()


class Server(Process):
    """An RPC server that accepts clients. Ours unless it says stock."""
    endpoint = None
    is_stock = False

    # Of the sessions that have ended, with what they did: graphs built and launched, MiB received.
    SUMMARY = re.compile(r'Client connection closed \(session (\d+)\): (?:[^;\n]*; )?'
                         r'(\d+) graphs? computed (\d+) times?, (\d+) MiB in')

    def workers(self):
        return children(self.pid)

    def kill(self):
        """Its workers notice by themselves, at once."""
        workers = self.workers() if self.running() else []
        super().kill()
        eventually(lambda: not any(is_alive(worker) for worker in workers), 'the workers of a dead server end', 10)

    def sessions(self):
        """(session, graphs, launches, MiB in) of every ended session that did something."""
        return [tuple(int(number) for number in found) for found in self.SUMMARY.findall(self.out())]

    def served(self):
        """How many graphs were launched here, once all sessions have ended."""
        if self.is_stock:
            return None
        self.wait_idle()
        return sum(launches for _, _, launches, _ in self.sessions())

    def accepted(self):
        return self.count(r'Accepted client connection from')

    def ended(self):
        return self.count(r'Client connection closed \(session') + self.count(r'session \d+ with \S+ ended')

    def wait_idle(self, timeout=None):
        eventually(lambda: self.ended() >= self.accepted(), f'{self.name}: all sessions are over', timeout)


class LlamaServer(Process):
    """A stock llama-server with a loaded model."""
    port = None

    def request(self, path, body=None, timeout=None):
        """(HTTP status, decoded answer). A connection that breaks is status 0."""
        request = urllib.request.Request(f'http://127.0.0.1:{self.port}{path}',
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={'Content-Type': 'application/json'})
        try:
            with urllib.request.urlopen(request, timeout=timeout or PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors='replace')
        except (urllib.error.URLError, ConnectionError, TimeoutError, OSError) as error:
            return 0, str(error)

    def complete(self, prompt=PROMPT, n=32, **more):
        status, answer = self.request('/completion', completion(prompt, n, **more))
        assert status == 200, f'llama-server answered {status}: {answer}'
        return answer['content']


def completion(prompt, n, **more):
    return {'prompt': prompt, 'n_predict': n, 'temperature': 0, 'cache_prompt': False, **more}


class InBackground(threading.Thread):
    """Calls a function in a thread. result() waits and gives what it returned."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self._call = functools.partial(function, *args, **kwargs)
        self._value = self._error = None
        self.start()

    def run(self):
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001: it is raised again in result()
            self._error = error

    def result(self, timeout=None):
        self.join(timeout or PATIENCE)
        assert not self.is_alive(), f'no result within {timeout or PATIENCE} s'
        if self._error is not None:
            raise self._error
        return self._value
