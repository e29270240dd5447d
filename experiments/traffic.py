#!/usr/bin/env python3
"""Counts the system calls and bytes of the client per generated token, by strace, with Caravan and with stock.

Each arrangement runs llama-bench twice, with N and with 2 N tokens: the difference belongs to the tokens alone. Only
calls on sockets that moved bytes are counted (sendto, sendmsg, recvfrom, recvmsg). Counts hardly differ between rounds;
medians are printed."""
import argparse
import pathlib
import re
import statistics
import sys
import tempfile

from processes import ROOT, Server, llama_bench, need_stock_server

MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
CALL = re.compile(r'(send|recv)\w+(?:\(| resumed>).* = (\d+)$')


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=pathlib.Path, default=MODEL, help='a GGUF file [models/scribe-5m]')
    parser.add_argument('--rounds', type=int, default=3, help='[3]')
    parser.add_argument('--tokens', type=int, default=100, help='N [100]')
    return parser.parse_args()


def socket_calls(model, tokens, folder, **arrangement):
    """[sends, bytes sent, receives, bytes received] of a whole run."""
    log = folder / 'calls'
    llama_bench(model, '-t', 1, '-p', 0, '-n', tokens, '-r', 1, **arrangement,
                under=['strace', '-f', '-qq', '--seccomp-bpf', '-e', 'trace=sendto,sendmsg,recvfrom,recvmsg', '-o', log])
    sizes = {'send': [], 'recv': []}
    for line in log.read_text(errors='replace').splitlines():
        if (found := CALL.search(line)) and int(found[2]) > 0:
            sizes[found[1]].append(int(found[2]))
    return [len(sizes['send']), sum(sizes['send']), len(sizes['recv']), sum(sizes['recv'])]


def main():
    options = arguments()
    need_stock_server()
    with tempfile.TemporaryDirectory() as folder, Server() as a, Server() as b, Server(stock=True) as sa, \
            Server(stock=True) as sb:
        ours, stock = [a.endpoint, b.endpoint], [sa.endpoint, sb.endpoint]
        arrangements = {
            'stock, 1 server': dict(endpoints=stock[:1], caravan=False),
            'Caravan, 1 server': dict(endpoints=ours[:1]),
            'Caravan client, 1 stock server': dict(endpoints=stock[:1]),
            'stock, 2 servers': dict(endpoints=stock, caravan=False),
            'Caravan, 2 servers': dict(endpoints=ours),
        }
        rounds = {name: [] for name in arrangements}
        for number in range(options.rounds):
            for name, arrangement in arrangements.items():
                few, many = (socket_calls(options.model, tokens, pathlib.Path(folder), **arrangement)
                             for tokens in (options.tokens, 2 * options.tokens))
                rounds[name].append([(m - f) / options.tokens for f, m in zip(few, many)])
            print(f'round {number + 1} of {options.rounds} done', file=sys.stderr)
    print('| per generated token | sends | bytes up | receives | bytes down |\n|---|---|---|---|---|')
    for name, measured in rounds.items():
        sends, up, receives, down = (statistics.median(column) for column in zip(*measured))
        print(f'| {name} | {sends:.2f} | {up:.0f} | {receives:.2f} | {down:.0f} |')


if __name__ == '__main__':
    main()
