#!/usr/bin/env python3
"""Runs mixed load on one machine for a time, and detects failures, wrong results and growth.

Two servers, one with a weight cache. Caravan's clients reach them, and the servers each other, through proxies that reset
connections, refuse them or fall silent for a moment. Clients start and exit, and are killed while they generate or load;
stock clients and hostile bytes connect directly. All results are compared with those of this machine's CPU without RPC.
Exits with 1 if a request failed or returned a different result, a server or a worker died, resources remained after the
last client, or a process grew by more than

  24 MiB of resident memory, 8 open files or 8 threads (servers, the long-lived client and its workers) between the first
  quarter of the time, after a tenth for warming up, and the last

From the checkout: ./dev soak [SECONDS]"""
import argparse
import collections
import ctypes
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests' / 'e2e'))
import harness
import stockwire
from processes import PROMPT, InBackground, completion, tail
from proxy import Proxy
from system import MAKE_MODELS, MODEL, STOCK_SERVER, eventually

PROMPTS = [(PROMPT, 200), ('And it came to pass', 40), ('The king said', 8)]
REQUEST_SECONDS = 150  # longer than a client tries to reconnect
GRACE_SECONDS = 60     # how long sessions wait for a client that died during an outage
SAMPLE_SECONDS = 10
WARM_UP = 0.1
CACHE_SIZE = '20M'     # one of the large models fits, not both
BOUNDS = {'MiB': 24, 'open files': 8, 'threads': 8}


# --- clients -----------------------------------------------------------------------------------------------------

class World:
    """State that all client processes share."""

    def __init__(self, servers, proxies, texts, logits, large, reports, over):
        self.direct = [types.SimpleNamespace(endpoint=server.endpoint) for server in servers]
        self.proxied = [types.SimpleNamespace(endpoint=proxy.endpoint) for proxy in proxies]
        self.texts, self.logits, self.reports, self.over = texts, logits, reports, over
        self.large = large  # models whose weights are cached, and their logits

    def count(self, event, number=1):
        self.reports.put(('count', event, number))

    def some(self, endpoints):
        return random.sample(endpoints, random.randint(1, len(endpoints)))


def ask(world, llama):
    prompt, n = random.choice(PROMPTS)
    status, answer = llama.request('/completion', completion(prompt, n), timeout=REQUEST_SECONDS)
    assert status == 200, f'llama-server answered {status}: {answer}\n{tail(llama.log())}'
    assert answer['content'] == world.texts[prompt, n], f'different text: {answer["content"]!r}'
    world.count('requests answered')


def ask_twice_at_once(world, llama):
    requests = [InBackground(ask, world, llama) for _ in range(2)]
    for request in requests:
        request.result(REQUEST_SECONDS + 10)


def ended_well(world, llama):
    world.count('sessions resumed, by clients', llama.count('; reconnected over tcp'))
    assert llama.stop() == 0, f'llama-server ended with {llama.popen.returncode}'


def lasting(lab, world):
    """One client for the whole time."""
    llama = lab.llama_server(world.proxied, more=['--cache-ram', 0])
    world.reports.put(('watch', 'long-lived client', llama.pid))
    while not world.over.is_set():
        random.choice([ask, ask, ask_twice_at_once])(world, llama)
        time.sleep(random.uniform(0, 1))
    ended_well(world, llama)


def visiting(lab, world):
    llama = lab.llama_server(world.some(world.proxied))
    for _ in range(random.randint(1, 6)):
        random.choice([ask, ask_twice_at_once])(world, llama)
    if random.random() < 0.5:
        return ended_well(world, llama)
    if random.random() < 0.5:
        InBackground(llama.request, '/completion', completion(PROMPT, 400))
        eventually(lambda: any(slot['is_processing'] for slot in llama.request('/slots')[1]), 'a request is processed')
    llama.kill()
    world.count('llama-server killed')


def computing(lab, world):
    harness.same(lab.logits(world.some(world.proxied)), world.logits)
    world.count('logits computed')


def caching(lab, world):
    model, logits = random.choice(world.large)
    harness.same(lab.logits(world.proxied[:1], model, chunks=1), logits)
    world.count('logits computed with cached weights')


def benchmarking(lab, world):
    lab.run(['llama-bench', '-m', MODEL, '-t', 1, '-p', 64, '-n', 32, '-r', 2, *lab.where(world.some(world.proxied))],
            timeout=REQUEST_SECONDS)
    world.count('llama-bench run')


def killed_generating(lab, world):
    client = lab.endless_completion(world.some(world.proxied))
    time.sleep(random.uniform(0, 1))
    client.kill()
    world.count('killed while generating')


def killed_loading(lab, world):
    lab.start_logits(world.some(world.proxied))
    time.sleep(random.uniform(0.05, 0.8))
    lab.processes[-1].kill()
    world.count('killed while loading or computing')


def stock(lab, world):
    servers = world.some(world.direct)
    if random.random() < 0.2:
        client = lab.endless_completion(servers, ours=False)
        client.kill()
        return world.count('stock client killed while generating')
    harness.same(lab.logits(servers, ours=False), world.logits)
    world.count('logits computed by a stock client')


def caravan_hello():
    features = random.choice([2, 6, random.getrandbits(32)])
    token = random.choice([0, 0, 0, random.getrandbits(64)])
    return stockwire.command(stockwire.HELLO, struct.pack('<I8sIQ', 0, b'CARAVAN1', features, token))


def hostile_bytes():
    """(kind, bytes)."""
    hello = random.choice([stockwire.command(stockwire.HELLO, bytes(24)), caravan_hello()])
    number = random.choice([*range(24), *range(64, 82), *range(128, 136), random.randrange(256)])
    nonsense = stockwire.command(number, random.randbytes(random.choice([0, 1, 8, 296, 312, 592, 5000])))
    alloc = stockwire.command(0, b'\0\0\0\0' + (4096).to_bytes(8, 'little'))
    return random.choice([
        ('garbage', random.randbytes(random.randint(1, 100_000))),
        ('half a handshake', hello[:random.randrange(len(hello))]),
        ('half a command', hello + nonsense[:random.randrange(1, len(nonsense))]),
        ('a nonsense command', hello + nonsense),
        ('a nonsense command in a session', hello + alloc + nonsense),
        ('an endless command', hello + number.to_bytes() + (2**64 - 1).to_bytes(8, 'little') + random.randbytes(1000)),
    ])


def hostile(lab, world):
    for _ in range(10):
        kind, data = hostile_bytes()
        with stockwire.connect(random.choice(world.direct)) as peer:
            try:
                peer.sendall(data)
                if random.random() < 0.5:
                    peer.settimeout(random.uniform(0.01, 0.5))
                    peer.recv(1000)
            except OSError:
                pass
        world.count(f'hostile: {kind}')
        time.sleep(random.uniform(0, 0.3))


CLIENTS = [lasting, visiting, computing, caching, benchmarking, killed_generating, killed_loading, stock, hostile]


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def live(client, world, seed):
    """One process of clients: runs `client` repeatedly."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    random.seed(seed)
    while not world.over.is_set():
        with tempfile.TemporaryDirectory() as folder:
            lab = harness.Lab(pathlib.Path(folder))
            try:
                client(lab, world)
            except Exception as error:  # noqa: BLE001: every failure is reported
                story = '\n\n'.join(f'$ {title}\n{log}' for title, log in lab.story())
                # The tools print little; the first error of the plug-in has the reason.
                why = re.search(r' E (.*RPC.*)', story)
                summary = f'{type(error).__name__}: {error}'.split('\n')[0] + (f': {why[1]}' if why else '')
                world.reports.put(('failure', client.__name__, summary, f'{error}\n\n{story}'))
            finally:
                lab.close()
        world.over.wait(random.uniform(0, 2))


# --- the network -------------------------------------------------------------------------------------------------

class Trouble(threading.Thread):
    """Causes resets, outages and silence at random until it is stopped.

    Outages are shorter than the 5 s for which a server keeps a session after all its connections were reset.
    """

    def __init__(self, proxies, rng):
        super().__init__(daemon=True)
        self.proxies, self.rng, self.counts, self.done = proxies, rng, collections.Counter(), threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(self.rng.uniform(0.05, 4)):
            some = self.rng.sample(self.proxies, self.rng.randint(1, len(self.proxies)))
            kind = self.rng.choices(['reset', 'several resets', 'outage', 'silence'], [6, 2, 1, 1])[0]
            self.counts[f'network: {kind}'] += 1
            if kind == 'silence':
                self.frozen(some, self.rng.uniform(0.2, 3))
                continue
            for _ in range(self.rng.randint(3, 8) if kind == 'several resets' else 1):
                self.cut(some, self.rng.uniform(0.3, 2) if kind == 'outage' else 0)
                self.done.wait(self.rng.uniform(0, 0.1))
            if kind == 'outage':
                self.done.wait(4)  # clients reconnect after growing pauses; a second outage at once would prolong the first

    def frozen(self, proxies, seconds):
        for proxy in proxies:
            proxy.frozen = True
        self.done.wait(seconds)
        for proxy in proxies:
            proxy.frozen = False

    def cut(self, proxies, outage):
        for proxy in proxies:
            proxy.refuses = outage > 0
            proxy.cut()
        self.done.wait(outage)
        for proxy in proxies:
            proxy.refuses = False

    def stop(self):
        self.done.set()
        self.join()


# --- measurements -------------------------------------------------------------------------------------------------

def measure(pid):
    try:
        status = pathlib.Path(f'/proc/{pid}/status').read_text()
        values = dict(line.split(':', 1) for line in status.splitlines())
        return {'MiB': int(values['VmRSS'].split()[0]) / 1024, 'threads': int(values['Threads']),
                'open files': len(os.listdir(f'/proc/{pid}/fd'))}
    except (OSError, KeyError):
        return {}  # it has just exited


def folder_mib(folder):
    total = 0
    for file in folder.rglob('*'):
        try:
            total += file.stat().st_size
        except OSError:
            pass
    return total / (1 << 20)


class Record:
    """Series of numbers over time: {(who, what): [(seconds, value)]}."""

    def __init__(self):
        self.begin, self.series = time.monotonic(), collections.defaultdict(list)

    def add(self, who, values):
        now = time.monotonic() - self.begin
        for what, value in values.items():
            self.series[who, what].append((now, value))

    def growth(self):
        """(who, what, samples, median of the first quarter, of the last, slope per hour) of each series."""
        for (who, what), points in self.series.items():
            points = points[int(len(points) * WARM_UP):]
            if len(points) >= 8:
                quarter = len(points) // 4
                first, last = (statistics.median(value for _, value in part)
                               for part in (points[:quarter], points[-quarter:]))
                slope = statistics.linear_regression(*zip(*points)).slope * 3600
                yield who, what, len(points), first, last, slope


def large_models(folder):
    """Models with tensors of more than 1 MiB, which are cached."""
    files = [folder / f'large-{width}.gguf' for width in (8192, 8448)]
    for file in files:
        subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', '2', '--d', '256', '--heads',
                        '8', '--kv-heads', '4', '--ff', file.stem.split('-')[1], '--vocab', '2048', '--type', 'q8_0'],
                       check=True, stdout=subprocess.DEVNULL, timeout=60)
    return files


class Soak:
    def __init__(self, seconds, seed, keep):
        self.seconds, self.seed, self.keep = seconds, seed, keep
        self.counts, self.failures, self.record, self.watched = collections.Counter(), [], Record(), {}

    def fail(self, who, what, story=''):
        what = re.sub(r'127\.0\.0\.1:\d+', 'HOST:PORT', what.splitlines()[0])[:300]
        self.failures.append((who, what))
        file = self.keep / f'failure-{len(self.failures):03}.txt'
        file.write_text(f'{time.monotonic() - self.record.begin:.0f} s: {who}: {what}\n\n{story}')
        print(f'FAILED: {who}: {what} (see {file})', file=sys.stderr, flush=True)

    def start_servers(self, lab):
        cache = lab.folder / 'cache'
        self.servers = [lab.server('-c', '--cache-dir', cache, '--cache-size', CACHE_SIZE, name='server A'),
                        lab.server(name='server B')]
        self.cache = cache
        for server in self.servers:
            lab.devices(server.endpoint)  # it has served a client, as when it is measured at the end
        self.before = [eventually(lambda: self.at_rest(server), 'a server at rest') for server in self.servers]

    @staticmethod
    def at_rest(server):
        server.wait_idle(30)
        return {'children': len(server.workers()), 'open files': measure(server.pid)['open files']}

    def sample(self):
        for server in self.servers:
            if not server.running():
                continue
            self.record.add(server.name, {
                **measure(server.pid), 'children': len(server.workers()),
                'sessions': server.accepted() - server.ended()})
            # The oldest worker serves the long-lived client. It started with the server.
            self.record.add(f'{server.name}, long-lived session', measure(self.oldest[server.name]))
        self.record.add('cache', {'MiB': folder_mib(self.cache)})
        for who, pid in self.watched.items():
            self.record.add(who, measure(pid))

    def read_reports(self, reports):
        while not reports.empty():
            kind, *what = reports.get()
            if kind == 'count':
                self.counts[what[0]] += what[1]
            elif kind == 'watch':
                self.watched[what[0]] = what[1]
                self.oldest = {server.name: server.workers()[0] for server in self.servers}
            else:
                self.fail(*what)

    def check_servers(self):
        for server in self.servers:
            if not server.running() and server not in self.dead:
                self.dead.append(server)
                self.fail(server.name, f'it died, with status {server.popen.returncode}', tail(server.log()))

    def run(self, lab):
        spawn = multiprocessing.get_context('spawn')
        reports, over = spawn.Queue(), spawn.Event()
        texts = {(prompt, n): harness.local_text(lab, [prompt], n)[0] for prompt, n in PROMPTS}
        logits = harness.local_logits(lab)
        large = [(model, harness.local_logits(lab, model, chunks=1)) for model in large_models(lab.folder)]
        self.start_servers(lab)
        self.dead, self.oldest = [], {}
        proxies = [Proxy(server) for server in self.servers]
        world = World(self.servers, proxies, texts, logits, large, reports, over)
        actors = []
        clients = CLIENTS if STOCK_SERVER else [client for client in CLIENTS if client is not stock]
        for number, client in enumerate(clients):
            actor = spawn.Process(target=live, args=(client, world, f'{self.seed}-{number}'), name=client.__name__)
            actor.start()
            actors.append(actor)
            if client is lasting:  # the first session
                deadline = time.monotonic() + 60
                while not self.watched and time.monotonic() < deadline:
                    time.sleep(0.1)
                    self.read_reports(reports)
        trouble = Trouble(proxies, random.Random(self.seed))
        self.record = Record()
        end = time.monotonic() + self.seconds
        next_sample = 0
        while time.monotonic() < end and len(self.dead) < len(self.servers):
            if time.monotonic() >= next_sample:
                self.sample()
                next_sample = time.monotonic() + SAMPLE_SECONDS
            self.read_reports(reports)
            self.check_servers()
            time.sleep(0.2)
        over.set()
        deadline = time.monotonic() + REQUEST_SECONDS + 60
        while any(actor.is_alive() for actor in actors) and time.monotonic() < deadline:
            self.read_reports(reports)
            time.sleep(0.2)
        trouble.stop()
        self.counts.update(trouble.counts)
        for actor in actors:
            if actor.is_alive():
                self.fail(actor.name, 'it did not exit')
                actor.kill()
            actor.join()
        self.read_reports(reports)
        self.counts['connections through proxies'] = sum(proxy.connections for proxy in proxies)
        self.check_rest()
        for proxy in proxies:
            proxy.close()

    def check_rest(self):
        """After all clients have left."""
        self.check_servers()
        for server, before in zip(self.servers, self.before):
            if not server.running():
                continue
            try:
                server.wait_idle(GRACE_SECONDS + 30)
                eventually(lambda: self.at_rest(server) == before, 'as before the first client', 30)
            except AssertionError as error:
                self.fail(server.name, f'not at rest, {self.remains(server)} instead of {before}: {error}',
                          tail(server.log(), 20000))
            self.counts['sessions served'] += server.count(r'Client connection closed \(session')
            self.counts['sessions resumed, by servers'] += server.count('Connected again')
            if died := server.count('died of'):
                self.fail(server.name, f'{died} workers died of a signal', '\n'.join(
                    line for line in server.log().splitlines() if 'died of' in line))
            if server.stop() != 0:
                self.fail(server.name, f'it stopped with status {server.popen.returncode}', tail(server.log()))

    @staticmethod
    def remains(server):
        return {'sessions': server.accepted() - server.ended(), 'children': len(server.workers()), **measure(server.pid)}

    def report(self):
        print(f'Soak of {self.seconds} s, seed {self.seed}.\n\n| who | what | samples | first quarter | last quarter | '
              f'growth | per hour |\n|---|---|---|---|---|---|---|')
        for who, what, samples, first, last, slope in self.record.growth():
            digits = 1 if what == 'MiB' else 0
            print(f'| {who} | {what} | {samples} | {first:.{digits}f} | {last:.{digits}f} | {last - first:+.{digits}f} | '
                  f'{slope:+.1f} |')
            if last - first > BOUNDS.get(what, float('inf')) and who != 'cache':
                self.fail(who, f'{what} grew by {last - first:.1f}, more than {BOUNDS[what]}')
        print('\n| event | times |\n|---|---|')
        for event, times in sorted(self.counts.items()):
            print(f'| {event} | {times} |')
        print(f'\n{len(self.failures)} failures')
        for (who, what), times in collections.Counter(self.failures).items():
            print(f'- {times} x {who}: {what}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('seconds', type=int, nargs='?', default=3600, help='[3600]')
    parser.add_argument('--seed', type=int, default=random.randrange(10**6), help='seed of the random events [random]')
    parser.add_argument('--keep', type=pathlib.Path, help='folder for the logs of failures [a temporary one]')
    options = parser.parse_args()
    keep = options.keep or pathlib.Path(tempfile.mkdtemp(prefix='soak-'))
    keep.mkdir(parents=True, exist_ok=True)
    soak = Soak(options.seconds, options.seed, keep)
    with tempfile.TemporaryDirectory() as folder:
        lab = harness.Lab(pathlib.Path(folder))
        try:
            soak.run(lab)
            soak.report()
        finally:
            lab.close()
            if soak.failures:
                for server in soak.servers:
                    (keep / f'{server.name}.log').write_text(server.log())
    if soak.failures:
        sys.exit(1)
    shutil.rmtree(keep)


if __name__ == '__main__':
    main()
