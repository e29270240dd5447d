#!/usr/bin/env python3
"""Measures all-reduce with 2, 3 and 4 servers by size: rpc-bench --allreduce, interleaved. Prints the median over the runs, the
algorithm that the servers chose last, and the smallest and largest median of a run.

Servers of this machine through shared memory and over TCP; or with --lab, servers in the lab's two machines over TCP and Soft-RoCE, the first and third
in one machine and the others in the other one. Soft-RoCE and the lab's network are not representative of adapters."""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

from processes import BIN, Server

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab

RANKS = 2, 3, 4


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=7, help='[7]')
    parser.add_argument('--rounds', type=int, default=3, help='of each run [3]')
    parser.add_argument('--lab', action='store_true')
    parser.add_argument('--timeout', type=int, default=200, help='of each run, s [200]')
    return parser.parse_args()


def local_benches(stack, options):
    """{title: function of a number of ranks that returns rpc-bench's result}"""
    def bench(environment):
        endpoints = [stack.enter_context(Server(environment=environment)).endpoint for _ in range(max(RANKS))]

        def run(ranks):
            done = subprocess.run([BIN / 'rpc-bench', '--allreduce', '--rpc', ','.join(endpoints[:ranks]), '--rounds',
                                   str(options.rounds), '-o', 'json'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  timeout=options.timeout)
            return json.loads(done.stdout)
        return run
    return {'shared memory': bench({}), 'TCP': bench({'GGML_RPC_SHM': 'off'})}


def lab_benches(stack, options):
    pair = stack.enter_context(lab.Pair())
    print(f'kind of machine: {pair.backend.name}', file=sys.stderr)

    def bench(transport, first_port):
        endpoints = []
        for number in range(max(RANKS)):
            machine, address = ((pair.a, '10.77.0.1'), (pair.b, '10.77.0.2'))[number % 2]
            machine.start(f'exec {BIN}/rpc-server -H 0.0.0.0 -p {first_port + number} -t 1 --links 10.77.0.0/24',
                          env={'GGML_RPC_TRANSPORT': transport}).wait_for('sessions ', 120)
            endpoints.append(f'{address}:{first_port + number}')

        def run(ranks):
            file = pair.shared / 'table.json'
            pair.b.run(f'{BIN}/rpc-bench --allreduce --rpc {",".join(endpoints[:ranks])} --rounds {options.rounds} -o json '
                       f'>{file}', timeout=options.timeout, env={'GGML_RPC_TRANSPORT': transport})
            return json.loads(file.read_text())
        return run
    return {'TCP': bench('tcp', 50100), 'Soft-RoCE': bench('auto', 50200)}


def main():
    options = arguments()
    load, results, failed = os.getloadavg()[0], {}, []
    with contextlib.ExitStack() as stack:
        benches = (lab_benches if options.lab else local_benches)(stack, options)
        for number in range(options.runs):
            for title, bench in benches.items():
                for ranks in RANKS:
                    result = bench(ranks)
                    if result['failure']:  # such as a link that a busy machine does not open within 3 s
                        failed.append(f'{title}, {ranks} ranks: {result["failure"]}')
                        continue
                    links = result['transports']
                    for size in result['sizes']:
                        results.setdefault((title, ranks), {}).setdefault(size['bytes'], []).append(
                            (size['p50_us'], size['algorithm'], links))
            print(f'run {number + 1} of {options.runs} done', file=sys.stderr)
    print(f'Load at the start {load:.1f}, at the end {os.getloadavg()[0]:.1f}. {options.runs} runs of {options.rounds} rounds.'
          '\n')
    print('| tensor | ' + ' | '.join(f'{title}, {ranks} ranks, µs' for title, ranks in results) + ' |')
    print('|---' * (len(results) + 1) + '|')
    for bytes_ in next(iter(results.values())):
        cells = []
        for column in results.values():
            times = [time for time, *_ in column[bytes_]]
            cells.append(f'{statistics.median(times):.0f} ({min(times):.0f}-{max(times):.0f}) {column[bytes_][-1][1]}')
        print(f'| {bytes_ >> 10} KiB | ' + ' | '.join(cells) + ' |')
    for failure in failed:
        print(f'a run failed: {failure}')
    for (title, ranks), column in results.items():
        print(f'{title}, {ranks} ranks: linked over', ', '.join(sorted({links for *_, links in next(iter(column.values()))})))


if __name__ == '__main__':
    main()
