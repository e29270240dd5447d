#!/usr/bin/env python3
"""Measures -sm tensor on several servers of this machine against one server, with Caravan, with and without shared memory, and
with the stock back-end, interleaved.

Each server computes with one thread, so the machine needs as many free cores as there are servers. Without --model it creates a
random model of 119 MiB (q8_0). The stock back-end supports two servers only."""
import argparse
import os
import pathlib
import statistics
import sys
import tempfile
from contextlib import ExitStack

from processes import Server, llama_bench, need_stock_server, random_model


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=pathlib.Path, help='a GGUF file [8 layers, width 1024, q8_0]')
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    parser.add_argument('--servers', type=int, default=2, help='[2]')
    parser.add_argument('--prompt', type=int, default=512, help='tokens [512]')
    parser.add_argument('--tokens', type=int, default=64, help='to generate [64]')
    return parser.parse_args()


def main():
    options = arguments()
    need_stock_server()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        model = options.model or random_model(pathlib.Path(folder) / 'random.gguf', layers=8, d=1024, heads=16, ff=3072,
                                              vocab=8192, type='q8_0')
        ours, linked, stock = ([servers.enter_context(Server(**how)).endpoint for _ in range(options.servers)]
                               for how in ({}, {'environment': {'GGML_RPC_SHM': 'off'}}, {'stock': True}))
        tensor = ['-sm', 'tensor']
        arrangements = {
            'one server': (ours[:1], [], True),
            f'{options.servers} servers, -sm tensor': (ours, tensor, True),
            f'{options.servers} servers, -sm tensor, no shared memory': (linked, tensor, True),
            f'{options.servers} servers, split by layers': (ours, [], True),
            f'stock, {options.servers} servers, -sm tensor': (stock, tensor, False),
        }
        rates = {name: [] for name in arrangements}
        load = os.getloadavg()[0]
        for number in range(options.rounds):
            for name, (endpoints, more, is_ours) in arrangements.items():
                rows = llama_bench(model, '-t', 1, '-p', options.prompt, '-n', options.tokens, '-fa', 1, '-r', 1, *more,
                                   endpoints=endpoints, caravan=is_ours)
                rates[name].append([row['avg_ts'] for row in rows])
            print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
    one = rates['one server']
    print(f'Load at the start {load:.1f}. Medians of {options.rounds} rounds; (ratio to one server in the same round, min-max).\n')
    print('| | prompt, tokens/s | generation, tokens/s |\n|---|---|---|')
    for name, rows in rates.items():
        cells = []
        for i in range(2):
            ratios = [row[i] / base[i] for row, base in zip(rows, one)]
            cells.append(f'{statistics.median(row[i] for row in rows):.1f} ({statistics.median(ratios):.2f}, '
                         f'{min(ratios):.2f}-{max(ratios):.2f})')
        print(f'| {name} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
