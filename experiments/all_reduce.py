#!/usr/bin/env python3
"""Measures how long two servers of this machine need to add up a tensor, against the bare exchange and addition of two
processes that spin (experiments/transport/sum_floor.cc), interleaved. Prints medians over the rounds of both and of their
ratio. The servers have one thread each, so the machine needs two free cores."""
import argparse
import json
import os
import statistics
import subprocess
import sys

from processes import BIN, Server


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15, help='[15]')
    parser.add_argument('--servers', type=int, default=2, help='more than two have no bare exchange [2]')
    return parser.parse_args()


def main():
    options = arguments()
    ours, bare = {}, {}
    load = os.getloadavg()[0]
    with_floor = options.servers == 2
    servers = [Server() for _ in range(options.servers)]
    try:
        endpoints = [server.__enter__().endpoint for server in servers]
        for number in range(options.rounds):
            done = subprocess.run([BIN / 'rpc-doctor', '--json', '--time', '10', *endpoints], stdout=subprocess.PIPE, check=True,
                                  timeout=60)
            facts = json.loads(done.stdout)['all_reduce']
            if facts['failure']:
                sys.exit(facts['failure'])
            for row in facts['sums']:
                ours.setdefault(row['bytes'], []).append(row['median_us'])
            if with_floor:
                floor = subprocess.run([BIN / 'sum-floor', *map(str, ours)], stdout=subprocess.PIPE, check=True, timeout=60)
                for size, us in map(str.split, floor.stdout.decode().splitlines()):
                    bare.setdefault(int(size), []).append(float(us))
            print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
    finally:
        for server in servers:
            server.__exit__(None, None, None)
    print(f'{options.servers} servers, links over {facts["transports"]}. Load at the start {load:.1f}. Medians of '
          f'{options.rounds} rounds.\n')
    print('| bytes | a sum, us | bare, us | ratio (min-max) |\n|---|---|---|---|')
    for size, times in ours.items():
        if with_floor:
            ratios = [mine / floor for mine, floor in zip(times, bare[size])]
            rest = f'{statistics.median(bare[size]):.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})'
        else:
            rest = '| '
        print(f'| {size} | {statistics.median(times):.1f} | {rest} |')


if __name__ == '__main__':
    main()
