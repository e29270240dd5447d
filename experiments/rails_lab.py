#!/usr/bin/env python3
"""Compares sessions over one and two queue pairs, on two devices in each of the lab's machines, interleaved.

Soft-RoCE takes a machine's only processor for each byte, so two devices are no faster than one unless the network is the limit:
then each interface is limited to some rate. Prints medians over the rounds.
From the checkout, with a build that has RDMA: ./dev run python3 experiments/rails_lab.py"""
import argparse
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab

BIN = pathlib.Path(os.environ.get('CARAVAN_BIN', ROOT / 'build' / 'bin'))
PORT = 7003
KEYS = {'64': 'round trip 64 B, µs', str(6 << 10): '6 KB, µs', str(600 << 10): '600 KB, µs', 'upload': 'upload, MB/s'}
# Mbit/s of each interface, in both directions; 0: unlimited.
RATES = [(0, 0), (200, 200), (200, 50)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    parser.add_argument('--megabytes', type=int, default=64, help='of an upload [64]')
    return parser.parse_args()


def limit(machine, interface, rate):
    machine.run(f'tc qdisc delete dev {interface} root 2>/dev/null')
    if rate > 0:
        machine.run(f'tc qdisc add dev {interface} root netem rate {rate}mbit limit 10000', check=True)


def measure(client, rails, megabytes):
    """{size or 'upload': µs or MB/s}"""
    _, output = client.run(f'{BIN}/caravan-line connect 10.77.0.1 {PORT} {megabytes}', check=True, timeout=300,
                           env={'GGML_RPC_TRANSPORT': 'rdma', 'GGML_RDMA_RAILS': str(rails)})
    assert output.count('RDMA activated') == rails, output
    return {line.split()[0]: float(line.split()[1]) for line in output.splitlines() if len(line.split()) == 2}


def main():
    options = arguments()
    two = lab.Config(second=True)
    with lab.Pair(a=two, b=two) as pair:
        pair.a.start(f'exec {BIN}/caravan-line serve {PORT}').wait_for('ready')
        print(f'| Mbit/s of the interfaces | queue pairs | {" | ".join(KEYS.values())} |\n|---|---|---|---|---|---|')
        for rates in RATES:
            for machine in (pair.a, pair.b):
                for interface, rate in zip(('eth0', 'eth1'), rates):
                    limit(machine, interface, rate)
            rows = {1: [], 2: []}
            for _ in range(options.rounds):
                for rails in rows:
                    rows[rails].append(measure(pair.b, rails, options.megabytes))
            for rails, measured in rows.items():
                values = [statistics.median(row[key] for row in measured) for key in KEYS]
                name = ' and '.join(map(str, rates)) if any(rates) else 'unlimited'
                print(f'| {name} | {rails} | {" | ".join(f"{value:.0f}" for value in values)} |', flush=True)


if __name__ == '__main__':
    try:
        main()
    except lab.Unavailable as error:
        sys.exit(f'lab: {error}')
