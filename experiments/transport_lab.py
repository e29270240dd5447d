#!/usr/bin/env python3
"""Compares Caravan's transports with bare verbs and plain TCP, in the lab's two machines, interleaved.

Each round measures all of them: round trips, an upload, and llama-bench over both transports. Prints medians over the
rounds, and the ratio to the baseline of the same round. Soft-RoCE is not representative of the speed of adapters; the
ratios show what Caravan adds.
From the checkout, with a build that has RDMA: ./dev run python3 experiments/transport_lab.py"""
import argparse
import json
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab

BIN = pathlib.Path(os.environ.get('CARAVAN_BIN', ROOT / 'build' / 'bin'))
MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
SIZES = {'64': '64 B', str(6 << 10): '6 KB', str(600 << 10): '600 KB'}
METHODS = {'copies': 'copied through slots on both sides', 'registers': 'sent from registered pages, copied at the server',
           'writes': 'from registered pages, RDMA WRITE to the destination'}
LINES = {  # name: (program, port, GGML_RPC_TRANSPORT)
    'verbs': ('verbs-floor', 7001, None),
    'tcp': ('tcp-floor', 7002, None),
    'Caravan RDMA': ('caravan-line', 7003, 'rdma'),
    'Caravan TCP': ('caravan-line', 7003, 'tcp'),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    parser.add_argument('--megabytes', type=int, default=256, help='of an upload [256]')
    parser.add_argument('--tokens', type=int, default=64, help='per llama-bench run [64]')
    parser.add_argument('--model', type=pathlib.Path, default=MODEL, help='under the checkout [models/scribe-5m]')
    parser.add_argument('--check', action='store_true', help='exit 1 if a limit is missed')
    return parser.parse_args()


def measure_line(client, name, megabytes):
    """{size or 'upload': µs or MB/s}"""
    program, port, transport = LINES[name]
    _, output = client.run(f'{BIN}/{program} connect 10.77.0.1 {port} {megabytes}', check=True, timeout=300,
                           env={'GGML_RPC_TRANSPORT': transport})
    return {line.split()[0]: float(line.split()[1]) for line in output.splitlines() if len(line.split()) == 2}


def measure_tokens(pair, transport, model, tokens):
    """(tokens/s, sends per token from client to server, and back)"""
    def bench(count):
        before = [machine.counters()['rdma_sends'] for machine in (pair.b, pair.a)]
        _, output = pair.b.run(f'/usr/bin/llama-bench -m {model} -t 1 -ngl 99 -p 0 -n {count} -r 1 -o json '
                               '--rpc 10.77.0.1:50052 2>/dev/null', check=True, timeout=120,
                               env={'GGML_BACKEND_PATH': f'{BIN}/libggml-rpc-caravan.so',
                                    'GGML_RPC_TRANSPORT': transport})
        after = [machine.counters()['rdma_sends'] for machine in (pair.b, pair.a)]
        return json.loads(output)[0]['avg_ts'], [b - a for a, b in zip(before, after)]

    # The difference of two runs: loading and warming up do not count.
    _, few = bench(tokens)
    rate, many = bench(2 * tokens)
    return rate, *((m - f) / tokens for m, f in zip(many, few))


def median(rows, *keys):
    def value(row):
        for key in keys:
            row = row[key]
        return row
    return statistics.median(value(row) for row in rows)


def main():
    options = arguments()
    rows = []
    with lab.Pair() as pair:
        for program, port in {LINES[name][:2] for name in LINES}:
            pair.a.start(f'exec {BIN}/{program} serve {port}').wait_for('ready')
        pair.a.start(f'exec {BIN}/rpc-server -H 0.0.0.0 -p 50052 -t 1').wait_for('sessions ')
        kind = pair.backend.name
        for number in range(options.rounds):
            row = {name: measure_line(pair.b, name, options.megabytes) for name in LINES}
            row['tokens'] = {transport: measure_tokens(pair, transport, options.model.resolve(), options.tokens)
                             for transport in ('rdma', 'tcp')}
            rows.append(row)
            print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)

    missed = []

    def report(what, key, unit, floor, ours, bar):
        ratio = statistics.median(row[ours][key] / row[floor][key] for row in rows)
        ok = bar is None or (ratio <= bar if unit == 'µs' else ratio >= bar)
        if not ok:
            missed.append(f'{ours}, {what}')
        print(f'| {what} | {median(rows, floor, key):.0f} {unit} | {ours} | {median(rows, ours, key):.0f} {unit} | '
              f'{ratio:.2f} | {"" if bar is None else f"{bar:g}" + ("" if ok else ", missed")} |')

    print(f'Machines: {kind}; medians of {options.rounds} rounds; model {options.model.name}.\n')
    print('| | baseline | transport | Caravan | ratio | limit |\n|---|---|---|---|---|---|')
    for floor, ours in (('verbs', 'Caravan RDMA'), ('tcp', 'Caravan TCP')):
        for key, what in SIZES.items():
            report(f'round trip {what}', key, 'µs', floor, ours,
                   None if floor != 'verbs' else 1.1 if key == str(600 << 10) else 1.15)
        report(f'upload {options.megabytes} MB', 'upload', 'MB/s', floor, ours, 0.9 if floor == 'verbs' else None)
    print('\n| upload from the caller\'s memory to its destination, bare verbs | MB/s | of the baseline |\n|---|---|---|')
    for method, text in METHODS.items():
        ratio = statistics.median(row['verbs'][method] / row['verbs']['upload'] for row in rows)
        print(f'| {text} | {median(rows, "verbs", method):.0f} | {ratio:.2f} |')
    print('\n| llama-bench | tokens/s | sends per token, to the server | from the server |\n|---|---|---|---|')
    for transport in ('rdma', 'tcp'):
        rate, there, back = (median(rows, 'tokens', transport, i) for i in range(3))
        print(f'| {transport} | {rate:.0f} | {there:.2f} | {back:.2f} |')
        if max(there, back) > 2:
            missed.append(f'sends per token over {transport}')
    if missed:
        print('\nMissed: ' + '; '.join(missed))
    return 1 if missed and options.check else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except lab.Unavailable as error:
        sys.exit(f'lab: {error}')
