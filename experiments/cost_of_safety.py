#!/usr/bin/env python3
"""What a token pays for sessions that survive broken connections, and for confined workers: one server with all of it,
one without either and one without both, interleaved in one run. Printed: medians, and of each round's ratios to the
server that has all. Without --model a small random model is made, whose own work is short enough that the cost shows."""
import argparse
import pathlib
import statistics
import sys
import tempfile

from processes import Server, llama_bench, random_model

SERVERS = {
    'all of it': [],
    'sessions end with their connection': ['--session-grace', '0'],
    'workers are not confined': ['--no-confinement'],
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
    whole = times['all of it']
    print('| server | µs/token (min-max) | all of it, to this |')
    print('|---|---|---|')
    for name, each in times.items():
        ratio = statistics.median(all_of_it / mine for all_of_it, mine in zip(whole, each))
        print(f'| {name} | {statistics.median(each):.0f} ({min(each):.0f}-{max(each):.0f}) | {ratio:.3f} |')


if __name__ == '__main__':
    main()
