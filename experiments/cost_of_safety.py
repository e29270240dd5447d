#!/usr/bin/env python3
"""Measures what resumable sessions and confined workers cost per token: a default server, one without each of the two, and
one without both, interleaved. Prints the medians of the times and of each round's ratio of the default to each server.
Without --model it creates a small random model, whose own computing is short enough for the cost to show."""
import argparse
import pathlib
import statistics
import sys
import tempfile

from processes import Server, llama_bench, random_model

SERVERS = {
    'default': [],
    '`--session-grace 0`': ['--session-grace', '0'],
    '`--no-confinement`': ['--no-confinement'],
    'neither': ['--session-grace', '0', '--no-confinement'],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=pathlib.Path, help='a GGUF file [4 layers, width 256, f16]')
    parser.add_argument('--rounds', type=int, default=9, help='[9]')
    parser.add_argument('--tokens', type=int, default=64, help='tokens per repetition [64]')
    parser.add_argument('--repetitions', type=int, default=20, help="llama-bench's -r [20]")
    options = parser.parse_args()
    times = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(pathlib.Path(folder) / 'tiny-f16.gguf', layers=4, d=256, vocab=512, ff=768,
                                              type='f16')
        servers = {name: Server(*arguments) for name, arguments in SERVERS.items()}
        try:
            for number in range(options.rounds):
                for name, server in servers.items():
                    row, = llama_bench(model, '-t', 1, '-p', 0, '-n', options.tokens, '-r', options.repetitions,
                                       endpoints=[server.endpoint])
                    times[name].append(statistics.median(1e6 / rate for rate in row['samples_ts']))
                print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
        finally:
            for server in servers.values():
                server.stop()
    default = times['default']
    print('| server | µs/token (min-max) | default, to this |')
    print('|---|---|---|')
    for name, each in times.items():
        ratio = statistics.median(base / mine for base, mine in zip(default, each))
        print(f'| {name} | {statistics.median(each):.0f} ({min(each):.0f}-{max(each):.0f}) | {ratio:.3f} |')


if __name__ == '__main__':
    main()
