#!/usr/bin/env python3
"""Measures the time that RPC adds to a generated token, with Caravan and with the stock back-end, interleaved.

Each round runs llama-bench once in every arrangement; the overhead of a round is its time per token minus that of the
local run of the same round. Prints medians over the rounds, and the ratio to stock. Without --model it creates a small
random model, whose own computing is short enough for the overhead to show."""
import argparse
import pathlib
import statistics
import sys
import tempfile

from processes import Server, llama_bench, need_stock_server, random_model


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=pathlib.Path, help='a GGUF file [4 layers, width 256, f16]')
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    parser.add_argument('--tokens', type=int, default=64, help='tokens per repetition [64]')
    parser.add_argument('--repetitions', type=int, default=10, help="llama-bench's -r [10]")
    parser.add_argument('--check', action='store_true', help='exit 1 if an overhead exceeds 0.15 of stock\'s')
    return parser.parse_args()


def microseconds_per_token(model, options, arrangement):
    row, = llama_bench(model, '-t', 1, '-p', 0, '-n', options.tokens, '-r', options.repetitions, **arrangement)
    # The median repetition, so that a disturbed one has no effect.
    return statistics.median(1e6 / rate for rate in row['samples_ts'])


def main():
    options = arguments()
    need_stock_server()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = random_model(pathlib.Path(folder) / 'tiny-f16.gguf', layers=4, d=256, vocab=512, ff=768, type='f16')
        with Server() as a, Server() as b, Server(stock=True) as sa, Server(stock=True) as sb:
            ours, stock = [a.endpoint, b.endpoint], [sa.endpoint, sb.endpoint]
            arrangements = {
                'local': dict(),
                'stock, 1 server': dict(endpoints=stock[:1], caravan=False),
                'Caravan, 1 server': dict(endpoints=ours[:1]),
                'stock, 2 servers': dict(endpoints=stock, caravan=False),
                'Caravan, 2 servers': dict(endpoints=ours),
                'Caravan client, 1 stock server': dict(endpoints=stock[:1]),
                'stock client, 1 Caravan server': dict(endpoints=ours[:1], caravan=False),
            }
            times = {name: [] for name in arrangements}
            for number in range(options.rounds):
                for name, arrangement in arrangements.items():
                    times[name].append(microseconds_per_token(model, options, arrangement))
                print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
    overhead = {name: [t - local for t, local in zip(times[name], times['local'])] for name in arrangements}
    baseline = {1: overhead['stock, 1 server'], 2: overhead['stock, 2 servers']}
    print('| arrangement | µs/token | overhead, µs (min-max) | of stock |')
    print('|---|---|---|---|')
    worst = 0.0
    for name, arrangement in arrangements.items():
        line = f'| {name} | {statistics.median(times[name]):.0f} |'
        if name == 'local':
            print(line, '| |')
            continue
        stock_overhead = baseline[len(arrangement['endpoints'])]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(overhead[name], stock_overhead))
        if name.startswith('Caravan, '):
            worst = max(worst, ratio)
        print(line, f'{statistics.median(overhead[name]):.0f} ({min(overhead[name]):.0f}-{max(overhead[name]):.0f}) | '
                    f'{ratio:.2f} |')
    if options.check and worst > 0.15:
        sys.exit(f'an overhead is {worst:.2f} of stock\'s: the limit is 0.15')


if __name__ == '__main__':
    main()
