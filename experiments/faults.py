#!/usr/bin/env python3
"""Tries faults and reports their effects on text, session and server: Caravan's client and server, and stock's, in turn.

A text is that of an unmodified llama-server, compared with one of an earlier request. Prints the table of
docs/reliability.md in Markdown. From the checkout: ./dev run python3 experiments/faults.py"""
import argparse
import collections
import contextlib
import os
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests' / 'e2e'))
import harness
import stockwire
from processes import PROMPT, InBackground, Server, completion
from proxy import Proxy
from system import RPC_SERVER, STOCK_SERVER, children, eventually, free_port

TOKENS = 1000
ANSWER_SECONDS = 90  # longer than a client tries to reconnect
PROBE_SECONDS = 10


class Trial:
    """One trial of one fault, with clients and servers of one kind."""

    def __init__(self, lab, ours):
        self.lab, self.ours, self.open = lab, ours, contextlib.ExitStack()

    def server(self, port=None):
        """On a fixed port, so that it can be restarted there."""
        port = port or free_port()
        program = RPC_SERVER if self.ours else STOCK_SERVER
        server = self.lab.start('rpc-server', [program, '-H', '127.0.0.1', '-p', port, '-t', 1], ours=False,
                                tool=not self.ours, kind=Server)
        server.endpoint, server.is_stock, server.port = f'127.0.0.1:{port}', not self.ours, port
        eventually(lambda: listens(server), 'the server listens', 20)
        self.probe(server)  # it has served a client, as when its memory is measured later
        return server

    def proxy(self, server):
        proxy = Proxy(server)
        self.open.callback(proxy.close)
        return proxy

    def llama(self, servers, *more):
        return self.lab.llama_server(servers, ours=self.ours, slots=1, more=['--context-shift', *more])

    def probe(self, server):
        """Seconds until a new client has received the server's devices; None: not within PROBE_SECONDS."""
        begin = time.monotonic()
        client = self.lab.start('llama-bench', ['llama-bench', '--rpc', server.endpoint, '--list-devices'],
                                ours=self.ours)
        try:
            client.wait(PROBE_SECONDS)
        except AssertionError:
            client.kill()
            return None
        return time.monotonic() - begin if 'RPC0: ' in client.log() else None

    def after(self, server, llama=None):
        """The state of the server after the client has left."""
        if llama is not None:
            llama.kill()
        time.sleep(0.5)  # the exit of the client has had its effect on the server
        if server.running() and self.probe(server) is not None:
            return 'serves the next client'
        return f'serves no client within {PROBE_SECONDS} s' if server.running() else f'died ({death(server)})'


def listens(server):
    try:
        stockwire.connect(server).close()
        return True
    except OSError:
        return False


def death(process):
    code = process.popen.returncode
    return signal.Signals(-code).name if code < 0 else f'status {code}'


def request(llama, n=TOKENS):
    return llama.request('/completion', completion(PROMPT, n, ignore_eos=True), timeout=ANSWER_SECONDS)


def outcome(llama, answer, expected):
    """The outcome of a request."""
    status, body = answer
    if status == 200:
        return 'the same' if body['content'] == expected else 'ANOTHER TEXT'
    if status == 0:
        deadline = time.monotonic() + 5
        while llama.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        return f'none within {ANSWER_SECONDS} s' if llama.running() else f'none: the program died ({death(llama)})'
    return f'none: HTTP {status}'


def during_generation(trial, llama, fault):
    """(outcome of the request, expected text)."""
    for _ in range(5):
        begin = time.monotonic()
        status, body = request(llama)
        assert status == 200, body
        seconds = time.monotonic() - begin
        in_flight = InBackground(request, llama)
        time.sleep(seconds * random.uniform(0.2, 0.6))
        if in_flight.is_alive():
            fault()
            return outcome(llama, in_flight.result(ANSWER_SECONDS + 30), body['content']), body['content']
        in_flight.result()
    raise AssertionError('the request always ended before the fault')


def afterwards(llama, expected, n=TOKENS):
    """The state of the session: can the program still use it?"""
    if not llama.running():
        return 'lost'
    result = outcome(llama, request(llama, n), expected)
    return 'continues' if result == 'the same' else f'lost: next request {result}'


# --- the network -----------------------------------------------------------------------------------------------------

def network_fault(trial, fault):
    server = trial.server()
    proxy = trial.proxy(server)
    llama = trial.llama([proxy])
    text, expected = during_generation(trial, llama, lambda: fault(proxy))
    return text, afterwards(llama, expected), trial.after(server, llama)


def reset_in_generation(trial):
    return network_fault(trial, Proxy.cut)


def outage(trial, seconds=3):
    def fault(proxy):
        proxy.refuses = True
        proxy.cut()
        time.sleep(seconds)
        proxy.refuses = False
    return network_fault(trial, fault)


def long_outage(trial):
    return outage(trial, 10)


def silence(trial):
    def fault(proxy):
        proxy.frozen = True
        time.sleep(3)
        proxy.frozen = False
    return network_fault(trial, fault)


def altered(trial):
    return network_fault(trial, lambda proxy: setattr(proxy, 'damage', 'altered'))


def lost(trial):
    return network_fault(trial, lambda proxy: setattr(proxy, 'damage', 'lost'))


def reset_while_loading(trial):
    return load_with_resets(trial, lambda proxy: setattr(proxy, 'cut_after', 1_000_000))


def reset_while_opening(trial):
    lives = (life for _ in range(1000) for life in (random.randrange(300), None))
    return load_with_resets(trial, lambda proxy: setattr(proxy, 'short_lived', lives))


def load_with_resets(trial, begin):
    server = trial.server()
    calm = trial.llama([server])
    expected = request(calm, 64)[1]['content']
    calm.kill()
    proxy = trial.proxy(server)
    begin(proxy)
    try:
        llama = trial.llama([proxy])
    except AssertionError:
        llama = trial.lab.processes[-1]
        ended = 'hangs' if llama.running() else f'the program died ({death(llama)})'
        return f'none: {ended}', 'lost', trial.after(server, llama)
    assert proxy.cuts > 0
    proxy.cut_after, proxy.short_lived = None, iter(())
    return outcome(llama, request(llama, 64), expected), afterwards(llama, expected, 64), trial.after(server, llama)


def reset_while_idle(trial):
    server = trial.server()
    proxy = trial.proxy(server)
    llama = trial.llama([proxy])
    expected = request(llama, 64)[1]['content']
    proxy.cut()
    time.sleep(random.uniform(0, 2))
    return outcome(llama, request(llama, 64), expected), afterwards(llama, expected, 64), trial.after(server, llama)


# --- servers ---------------------------------------------------------------------------------------------------------

def server_killed(trial):
    server = trial.server()
    llama = trial.llama([server], '--sleep-idle-seconds', 2)
    text, expected = during_generation(trial, llama, server.kill)
    if not llama.running():
        return text, 'lost', 'killed'
    again = trial.server(server.port)
    time.sleep(4)  # the program unloads the model when it is idle, and loads it for the next request
    next_one = outcome(llama, request(llama), expected)
    return text, f'lost; the program lives, and gives {next_one} after a reload', trial.after(again, llama)


def one_of_two_killed(trial):
    servers = [trial.server(), trial.server()]
    doomed, other = random.sample(servers, 2)
    llama = trial.llama(servers)
    text, expected = during_generation(trial, llama, doomed.kill)
    lost = 'lost; the program lives' if llama.running() else 'lost'
    return text, lost, 'the other one ' + trial.after(other, llama)


def crash(trial):
    """Of the process that computes."""
    server = trial.server()
    idle = trial.llama([server]) if trial.ours else None  # stock serves one client at a time
    beside = request(idle, 64)[1]['content'] if idle else None
    before = server.workers()
    llama = trial.llama([server])
    def fault():
        os.kill(max(set(server.workers()[:-1]) - set(before[:-1])) if trial.ours else server.pid, signal.SIGSEGV)
    text, expected = during_generation(trial, llama, fault)
    lost = 'lost; the program lives' if llama.running() else 'lost'
    other = f'another client\'s session {afterwards(idle, beside, 64)}; ' if idle else ''
    return text, lost, other + trial.after(server, llama)


# --- clients ---------------------------------------------------------------------------------------------------------

def resident(server):
    """MiB of anonymous memory, which includes weights, of all its processes."""
    kib = 0
    for pid in [server.pid, *children(server.pid)]:
        with contextlib.suppress(OSError, StopIteration):
            lines = pathlib.Path(f'/proc/{pid}/status').read_text().splitlines()
            kib += int(next(line for line in lines if line.startswith('RssAnon:')).split()[1])
    return kib / 1024


def client_killed(trial):
    """Memory is free when less than a tenth of what the session took is left."""
    server = trial.server()
    before = resident(server)
    client = trial.lab.endless_completion([server], ours=trial.ours)
    taken = resident(server) - before
    begin = time.monotonic()
    client.kill()
    while (left := resident(server) - before) > taken / 10 and time.monotonic() - begin < PROBE_SECONDS:
        time.sleep(0.002)
    freed = ('memory free after {} s', time.monotonic() - begin) if left <= taken / 10 else \
        f'{left:.0f} of {taken:.0f} MiB kept'
    return '-', freed, trial.after(server)


def silent_client(trial):
    server = trial.server()
    with stockwire.connect(server):
        others = trial.probe(server)
    effect = 'other clients are served meanwhile' if others is not None else f'no client is served within {PROBE_SECONDS} s'
    return '-', effect, trial.after(server)


def garbage(trial):
    server = trial.server()
    for data in (b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', random.randbytes(100_000), bytes(4096), b'\xff' * 4096,
                 stockwire.command(stockwire.HELLO, bytes(24)) + b'\xff' * 4096,
                 stockwire.command(stockwire.HELLO, bytes(24)) + stockwire.command(10, b'\xff' * 4096)):
        with contextlib.suppress(OSError), stockwire.connect(server) as peer:
            peer.sendall(data)
            peer.settimeout(0.2)
            peer.recv(1000)
    return '-', '-', trial.after(server)


def unsupported_op(trial):
    """The program queries supports_op first, like ggml's scheduler."""
    server = trial.server()
    program = trial.lab.start('program', [sys.executable, ROOT / 'experiments/unsupported_op.py', server.endpoint],
                              ours=trial.ours)
    program.wait(60)
    results = dict(line.split(': ') for line in program.out().splitlines() if ': ' in line)
    if results.get('op') == 'not supported':
        effect = 'refused; the program may compute it elsewhere'
    else:
        end = f'continues with {results["op"]}' if 'op' in results else f'died ({death(program)})'
        effect = f'accepted: the program {end}'
    return effect, 'continues' if results.get('sum') == '2' else 'lost', trial.after(server)


def two_clients(trial):
    server = trial.server()
    llama = trial.llama([server])
    expected = request(llama, 64)[1]['content']
    finish = trial.lab.start_logits([server], ours=trial.ours)
    try:
        trial.lab.processes[-1].wait(PROBE_SECONDS)
    except AssertionError:
        trial.lab.processes[-1].kill()
        return 'the second gets none', f'the second waits, {PROBE_SECONDS} s and more', trial.after(server, llama)
    harness.same(finish(), harness.local_logits(trial.lab))
    return outcome(llama, request(llama, 64), expected), 'both continue', trial.after(server, llama)


FAULTS = {
    'connection reset during generation': reset_in_generation,
    'connection reset after each MB while weights load': reset_while_loading,
    'connection reset while idle': reset_while_idle,
    'every second connection reset within its first 300 bytes while a model is loaded': reset_while_opening,
    'a bit of a message altered during generation': altered,
    'a message lost during generation': lost,
    'network silent for 3 s during generation': silence,
    'outage of 3 s during generation: reset, and no connection succeeds': outage,
    'outage of 10 s during generation': long_outage,
    'server killed during generation, then restarted': server_killed,
    'one of two servers killed during generation': one_of_two_killed,
    'SIGSEGV in the process that computes': crash,
    'client killed during generation': client_killed,
    'an op that the device lacks': unsupported_op,
    'a client that connects and sends nothing': silent_client,
    'garbage on the port, of six kinds': garbage,
    'two clients at once': two_clients,
}


def one_trial(fault, ours):
    with tempfile.TemporaryDirectory() as folder:
        lab = harness.Lab(pathlib.Path(folder))
        trial = Trial(lab, ours)
        try:
            return fault(trial)
        finally:
            trial.open.close()
            lab.close()


def summary(values):
    """Each outcome of the trials once, with its number if there are several."""
    groups = collections.defaultdict(list)
    for value in values:
        text, number = value if isinstance(value, tuple) else (value, None)
        groups[text].append(number)
    parts = []
    for text, numbers in sorted(groups.items(), key=lambda group: -len(group[1])):
        if numbers[0] is not None:
            text = text.format(f'{statistics.median(numbers):.2f} ({min(numbers):.2f}-{max(numbers):.2f})')
        parts.append(text if len(groups) == 1 else f'{text} ({len(numbers)} of {len(values)})')
    return '; '.join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='trials of each fault and kind [5]')
    parser.add_argument('--only', default='', help='faults whose name contains this [all]')
    options = parser.parse_args()
    if STOCK_SERVER is None:
        sys.exit("the stock ggml-rpc-server is not installed: nothing to compare with")
    print('| fault | Caravan: text | session | server | trials | stock: text; session; server |\n|---|---|---|---|---|---|---|')
    for name, fault in FAULTS.items():
        if options.only not in name:
            continue
        results = {True: [], False: []}
        for _ in range(options.rounds):
            for ours in True, False:
                result = one_trial(fault, ours)
                results[ours].append(result)
                print(f'{name}: {"Caravan" if ours else "stock"}: {result}', file=sys.stderr, flush=True)
        ours, stock = ([summary(column) for column in zip(*results[kind])] for kind in (True, False))
        stock = '; '.join(cell for cell in stock if cell != '-')
        print(f'| {name} | {" | ".join(ours)} | {options.rounds} | {stock} |', flush=True)


if __name__ == '__main__':
    main()
