#!/usr/bin/env python3
"""Measures tokens per second on three servers with delayed links, with Caravan and with the stock back-end, interleaved.

In one machine of the lab, client and servers have a network namespace each, joined by a bridge; netem delays outgoing
packets. From the checkout: ./dev run python3 experiments/slow_links.py"""
import argparse
import json
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab

BIN = pathlib.Path(os.environ.get('CARAVAN_BIN', ROOT / 'build' / 'bin'))
MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
STOCK = '/usr/libexec/*/llama/bin/ggml-rpc-server'
PORTS = {'stock': 50051, 'Caravan': 50052}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='[5]')
    parser.add_argument('--delay', default='1ms', help='one-way delay of each link, in the syntax of tc [1ms]')
    parser.add_argument('--servers', type=int, default=3, help='[3]')
    parser.add_argument('--tokens', type=int, default=64, help='[64]')
    parser.add_argument('--model', type=pathlib.Path, default=MODEL, help='under the checkout [models/scribe-5m]')
    return parser.parse_args()


def network(machine, options):
    script = 'ip link add br9 type bridge && ip link set br9 up\n'
    for i in range(options.servers + 1):
        script += f'''
            ip netns add n{i}
            ip link add v{i} type veth peer name eth9 netns n{i}
            ip link set v{i} master br9 up
            ip -n n{i} address add 10.90.0.{i + 1}/24 dev eth9
            ip -n n{i} link set eth9 up
            ip -n n{i} link set lo up
            tc -n n{i} qdisc add dev eth9 root netem delay {options.delay} limit 100000
        '''
    machine.run('set -e\n' + script, check=True)


def tokens_per_second(machine, options, kind):
    endpoints = ','.join(f'10.90.0.{i + 2}:{PORTS[kind]}' for i in range(options.servers))
    env = {'GGML_BACKEND_PATH': f'{BIN}/libggml-rpc-caravan.so'} if kind == 'Caravan' else {}
    _, output = machine.run(f'ip netns exec n0 /usr/bin/llama-bench -m {options.model.resolve()} -t 1 -ngl 99 -p 0 '
                            f'-n {options.tokens} -r 1 -o json --rpc {endpoints} 2>/dev/null', check=True, timeout=300,
                            env=env)
    return json.loads(output)[0]['avg_ts']


def main():
    options = arguments()
    with lab.Pair() as machines:
        machine = machines.a
        network(machine, options)
        for i in range(options.servers):
            inside = f'exec ip netns exec n{i + 1}'
            machine.start(f'{inside} {BIN}/rpc-server -H 0.0.0.0 -p {PORTS["Caravan"]} -t 1').wait_for('sessions ')
            machine.start(f'{inside} $(echo {STOCK}) -H 0.0.0.0 -p {PORTS["stock"]} -t 1')
        machine.run('sleep 2')
        rows = []
        for number in range(options.rounds):
            rows.append({kind: tokens_per_second(machine, options, kind) for kind in PORTS})
            print(f'round {number + 1} of {options.rounds}: {rows[-1]}', file=sys.stderr)
        kind = machines.backend.name
    ratio = statistics.median(row['Caravan'] / row['stock'] for row in rows)
    print(f'Machine: {kind}; {options.servers} servers, {options.delay} on each link, one way; medians of '
          f'{options.rounds} rounds; model {options.model.name}.\n')
    print('| | tokens/s | of stock |\n|---|---|---|')
    for kind in PORTS:
        print(f'| {kind} | {statistics.median(row[kind] for row in rows):.1f} | '
              f'{ratio if kind == "Caravan" else 1:.2f} |')


if __name__ == '__main__':
    try:
        main()
    except lab.Unavailable as error:
        sys.exit(f'lab: {error}')
