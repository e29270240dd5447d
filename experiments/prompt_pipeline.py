#!/usr/bin/env python3
"""Measures a prompt in micro-batches on one server and on several, with Caravan and with the stock back-end, interleaved.

With k micro-batches and s servers with equal shares, an ideal pipeline is k s / (k + s - 1) times as fast as one server: it
is full except in the first and last s - 1 steps. Each server computes with one thread, so the machine needs as many free
cores as there are servers. Without --model it creates a random model of 98 MiB (q8_0)."""
import argparse
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
    parser.add_argument('--prompt', type=int, default=1024, help='tokens [1024]')
    parser.add_argument('--ubatch', type=int, default=128, help='tokens of a micro-batch [128]')
    return parser.parse_args()


def ideal(micro_batches, servers):
    return micro_batches * servers / (micro_batches + servers - 1)


def main():
    options = arguments()
    need_stock_server()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        model = options.model or random_model(pathlib.Path(folder) / 'random.gguf', layers=8, d=1024, heads=16, ff=2560,
                                              vocab=512, type='q8_0')
        endpoints = {kind: [servers.enter_context(Server(stock=kind == 'stock')).endpoint for _ in range(options.servers)]
                     for kind in ('stock', 'Caravan')}
        rates = {(kind, count): [] for kind in endpoints for count in (1, options.servers)}
        for number in range(options.rounds):
            for kind, count in rates:
                row, = llama_bench(model, '-t', 1, '-p', options.prompt, '-n', 0, '-b', options.prompt, '-ub',
                                   options.ubatch, '-r', 1, endpoints=endpoints[kind][:count], caravan=kind == 'Caravan')
                rates[kind, count].append(statistics.median(row['samples_ts']))
            print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
    best = ideal(-(-options.prompt // options.ubatch), options.servers)
    print(f'| | one server, t/s | {options.servers} servers, t/s | times (min-max) | of the ideal {best:.2f} |')
    print('|---|---|---|---|---|')
    for kind in endpoints:
        one, several = rates[kind, 1], rates[kind, options.servers]
        gains = [b / a for a, b in zip(one, several)]
        gain = statistics.median(gains)
        print(f'| {kind} | {statistics.median(one):.1f} | {statistics.median(several):.1f} | '
              f'{gain:.2f} ({min(gains):.2f}-{max(gains):.2f}) | {gain / best:.2f} |')


if __name__ == '__main__':
    main()
