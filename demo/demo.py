#!/usr/bin/env python3
"""Demonstration: a real language model whose layers are spread over two rpc-server processes.

Starts two servers on free ports, runs unmodified llama.cpp tools with them, compares text and speed with local runs and
with the stock RPC back-end, and stops all processes. Takes less than a minute."""
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'experiments'))
from processes import (ROOT, Server, caravan_environment, llama_bench, real_tool, stock_environment,
                       stock_server_program)

MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
PROMPT = 'And it came to pass'
TOKENS = 60
ROUNDS = 5


def say(text=''):
    print(text, flush=True)


def complete(endpoints):
    """The continuation of the prompt, with the most probable token at each step."""
    command = [real_tool('llama-completion'), '-m', str(MODEL), '-p', PROMPT, '-n', str(TOKENS), '--temp', '0',
               '-t', '1', '-no-cnv', '--no-warmup', '--no-perf', '-lv', '0', '--simple-io', '-nr', '-ngl', '99']
    command += ['--rpc', ','.join(endpoints)] if endpoints else ['--device', 'none']
    done = subprocess.run(command, env=caravan_environment() if endpoints else stock_environment(), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    if done.returncode != 0:
        sys.exit(f'llama-completion ended with {done.returncode}:\n{done.stderr}')
    return done.stdout.strip()


def both_texts(endpoints):
    # On a busy machine llama-completion can lose the end of its output, with and without RPC: repeat then.
    for _ in range(5):
        local, remote = complete([]), complete(endpoints)
        if local == remote or not (local.startswith(remote) or remote.startswith(local)):
            break
    return local, remote


def measure(ours, stock):
    runs = {'local, no RPC': dict()}
    if stock:
        runs['stock RPC, 2 servers'] = dict(endpoints=stock, caravan=False)
    runs['Caravan, 2 servers'] = dict(endpoints=ours)
    times = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, arrangement in runs.items():
            row, = llama_bench(MODEL, '-t', 1, '-p', 0, '-n', 64, '-r', 5, **arrangement)
            times[name].append(statistics.median(1e6 / rate for rate in row['samples_ts']))
    return times


def table(times):
    local = times['local, no RPC']
    say(f'    {"":<22} {"tokens/s":>9}   {"overhead per token":>18}')
    for name, values in times.items():
        overhead = statistics.median(value - base for value, base in zip(values, local))
        cost = '' if values is local else f'{overhead:.0f} µs'
        say(f'    {name:<22} {1e6 / statistics.median(values):>9.0f}   {cost:>18}')


def main():
    begin = time.monotonic()
    with Server() as first, Server() as second:
        ours = [first.endpoint, second.endpoint]
        say(f'==> Two rpc-servers are running: {ours[0]} and {ours[1]}')
        say(f'==> llama-completion --rpc {",".join(ours)} -m {MODEL.relative_to(ROOT)}')
        say('    Each server has half of the model\'s layers. The prompt continues:')
        say()
        local, remote = both_texts(ours)
        for line in remote.splitlines():
            say(f'    | {line}')
        say()
        if local != remote:
            sys.exit(f'==> FAILED: the text differs from that without RPC:\n{local}')
        say('==> The text is identical to that without RPC.')
        say()
        say(f'==> Speed, {ROUNDS} interleaved rounds of llama-bench, medians')
        say('    (a tiny model on one machine: this shows the cost of RPC, not the gain of more machines)')
        if stock_server_program():
            with Server(stock=True) as a, Server(stock=True) as b:
                times = measure(ours, [a.endpoint, b.endpoint])
        else:
            say('    (the stock rpc-server is not installed: no comparison with it)')
            times = measure(ours, [])
        say()
        table(times)
    say()
    say(f'==> Done in {time.monotonic() - begin:.0f} s. Try next:')
    say('    ./dev run rpc-server --help                     options of the server')
    say('    ./dev run rpc-server -H 0.0.0.0 -c              lend this machine\'s devices to your network')
    say('    ./dev run llama-bench --rpc HOST:50052 -m FILE  use them from another machine')
    say('    ./dev test                                      run all tests')


if __name__ == '__main__':
    main()
