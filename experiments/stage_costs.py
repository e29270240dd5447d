#!/usr/bin/env python3
"""Measures the CPU time of each stage of a long transfer, in nanoseconds for each KiB.

1. On plain memory, in one thread: copying into and out of slots, checking records, hashing.
2. In the lab's two machines, over Soft-RoCE: all CPU time of the sending and the receiving machine during an upload and a
   download, with bare verbs and with Caravan. Nearly all is the kernel's: system calls, copies and checksums of packets. User
   Mode Linux does not count the program's share.
3. There too: registering the caller's memory for one call, against copying it into slots.
From the checkout, with a build that has RDMA: ./dev run python3 experiments/stage_costs.py"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab

BIN = pathlib.Path(os.environ.get('CARAVAN_BIN', ROOT / 'build' / 'bin'))
STAGES = {'copy_in': 'copy into slots', 'copy_out': 'copy out of slots', 'check': 'check of records (XXH3, up to 32 KiB each)',
          'hash': 'hash of weights (BLAKE3)'}
LINES = {'bare verbs': ('verbs-floor', 7001), 'Caravan': ('caravan-line', 7003)}
TICKS = os.sysconf('SC_CLK_TCK')


def host_seconds(machine):
    """CPU time of the processes that are the machine."""
    total = 0
    for folder in pathlib.Path('/proc').iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / 'stat').read_text().rsplit(')', 1)[1].split()
            except OSError:
                continue  # it has ended
            if int(fields[2]) == machine.pid:
                total += sum(map(int, fields[11:15]))
    return total / TICKS


def measure_transfer(pair, line, direction, megabytes):
    """ns per KiB of the sending and of the receiving machine, MB/s"""
    program, port = LINES[line]
    machines = (pair.b, pair.a) if direction == 'upload' else (pair.a, pair.b)
    before = [host_seconds(machine) for machine in machines]
    _, output = pair.b.run(f'{BIN}/{program} connect 10.77.0.1 {port} {megabytes} {direction}', check=True, timeout=300,
                           env={'GGML_RPC_TRANSPORT': 'rdma'})
    costs = [(host_seconds(machine) - then) * 1e9 / (megabytes * 1024) for machine, then in zip(machines, before)]
    return *costs, float(output.split()[-1])


def table(output):
    return {name: float(value) for name, value in (line.split() for line in output.splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    parser.add_argument('--megabytes', type=int, default=256, help='of a transfer [256]')
    options = parser.parse_args()

    print('| one thread, plain memory | ns for each KiB | GB/s | of a core at 100 Gb/s |\n|---|---|---|---|')
    plain = table(subprocess.run([BIN / 'stage-costs'], check=True, capture_output=True, text=True).stdout)
    for name, text in STAGES.items():
        print(f'| {text} | {plain[name]:.0f} | {1024 / plain[name]:.1f} | {plain[name] * 12.5 / 1024:.2f} |')

    with lab.Pair() as pair:
        for program, port in LINES.values():
            pair.a.start(f'exec {BIN}/{program} serve {port}').wait_for('ready')
        rows = {(line, direction): [] for direction in ('upload', 'download') for line in LINES}
        for number in range(options.rounds):
            for (line, direction), row in rows.items():
                row.append(measure_transfer(pair, line, direction, options.megabytes))
            print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
        _, output = pair.b.run(f'{BIN}/stage-costs registration', check=True, timeout=120)
    print('\n| over Soft-RoCE | sending machine, ns for each KiB | receiving machine | MB/s |\n|---|---|---|---|')
    for (line, direction), row in rows.items():
        print(f'| {direction}, {line} | ' + ' | '.join(f'{statistics.median(column):.0f}' for column in zip(*row)) + ' |')
    print('\n| sending from the caller\'s memory, in a lab machine | ns for each KiB |\n|---|---|')
    for name, value in table(output).items():
        text = 'copy into slots' if name == 'copy' else f'register and deregister pieces of {int(name) >> 10} KiB'
        print(f'| {text} | {value:.0f} |')


if __name__ == '__main__':
    try:
        sys.exit(main())
    except lab.Unavailable as error:
        sys.exit(f'lab: {error}')
