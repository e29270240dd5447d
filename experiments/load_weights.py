#!/usr/bin/env python3
"""Measures the time to load a model with Caravan and with the stock back-end, by rpc-bench, in interleaved rounds.

Cold: servers without a cache. Cached: servers with -c that have the complete model; the round that fills the caches does
not count. The file is in the page cache. Without --model it creates a random model of 1.1 GiB (q8_0) in TMPDIR."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from processes import BIN, Server, need_stock_server, random_model


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=pathlib.Path, help='a GGUF file [20 layers, width 2048, q8_0]')
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    return parser.parse_args()


def measure(model, rounds, *options, folder):
    """The arrangements in the report of rpc-bench, with servers that have these options."""
    caches = {name: {'LLAMA_CACHE': str(folder / name)} for name in ('ours', 'stock')}
    with Server(*options, environment=caches['ours']) as ours, \
            Server(*options, stock=True, environment=caches['stock']) as stock:
        done = subprocess.run([BIN / 'rpc-bench', '--rpc', ours.endpoint, '--against', 'stock', '--against-rpc',
                               stock.endpoint, '-m', model, '-t', '1', '-p', '1', '-n', '0', '-r', '1', '--rounds',
                               str(rounds + 1), '-o', 'json'], check=True, stdout=subprocess.PIPE, text=True,
                              env={name: value for name, value in os.environ.items() if name != 'GGML_BACKEND_PATH'})
    return {arrangement['name']: arrangement for arrangement in json.loads(done.stdout)['arrangements']}


def spread(summary, digits=2):
    return f'{summary["median"]:.{digits}f} ({summary["min"]:.{digits}f}-{summary["max"]:.{digits}f})'


def main():
    options = arguments()
    need_stock_server()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = options.model or random_model(folder / 'random.gguf', layers=20, d=2048, heads=16, kv_heads=8, ff=5632,
                                              vocab=32000, type='q8_0')
        model.read_bytes()  # into the page cache
        print(f'{model.stat().st_size / (1 << 30):.2f} GiB, medians (min-max) of {options.rounds} rounds', file=sys.stderr)
        print('| | stock, s | Caravan, s | of stock | Caravan: from cache |\n|---|---|---|---|---|')
        for kind, server_options in {'cold': [], '`-c`, all in the cache': ['-c']}.items():
            measured = measure(model, options.rounds, *server_options, folder=folder)
            ours, stock = measured['caravan'], measured['stock']
            ratios = sorted(mine['load_s'] / theirs['load_s']
                            for mine, theirs in zip(ours['runs'][1:], stock['runs'][1:]))
            print(f'| {kind} | {spread(stock["later_loads"]["seconds"])} | {spread(ours["later_loads"]["seconds"])} | '
                  f'{ratios[len(ratios) // 2]:.2f} | {ours["later_loads"]["from_cache"]["median"]:.0%} |', flush=True)


if __name__ == '__main__':
    main()
