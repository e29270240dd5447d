#!/usr/bin/env python3
"""The lab: two connected virtual machines, a and b, each with a real kernel and an RDMA device (Soft-RoCE).

Run from the checkout: ./dev lab COMMAND. Changes nothing outside the machines and needs no privileges."""
import argparse
import pathlib
import shlex
import signal
import sys
import time

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)
import lab
from lab import demo, selftest, terminal


def arguments():
    parser = argparse.ArgumentParser(prog='./dev lab', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    shell = commands.add_parser('shell', help='open a shell in each machine; Ctrl-] switches between them')
    run = commands.add_parser('run', help='run a command in machine a, and optionally one in b; exit code of a\'s')
    check = commands.add_parser('selftest', help='boot both, test ping, TCP and RDMA, and print measurements')
    show = commands.add_parser('demo', help='generate text over RDMA')
    commands.add_parser('which', help='print the kind of virtual machine that this computer can run, and why')
    commands.add_parser('kernel', help='build the User Mode Linux kernel for the fastest machines, once (./dev lab only)')
    for parser_with_pair in (shell, run, check, show):
        parser_with_pair.add_argument('--mtu', type=int, default=4200, help='MTU of the network [4200]')
        parser_with_pair.add_argument('--memory', type=int, default=1024, help='memory of each machine in MiB [1024]')
        parser_with_pair.add_argument('--no-rdma', choices=['a', 'b', 'both'], help='machine without an RDMA device')
        parser_with_pair.add_argument('--keep', action='store_true', help='keep the run folder (consoles, shared)')
    run.add_argument('--on-b', metavar='COMMAND', help='a shell command to run in b at the same time')
    run.add_argument('--wait-for', metavar='TEXT', help='start the command in a once b\'s has printed this')
    run.add_argument('--timeout', type=float, default=600, help='time-out in seconds [600]')
    run.add_argument('argument', nargs='+', metavar='CMD',
                     help='a single word is a shell command; several are a program and its arguments')
    return parser.parse_args()


def pair(options):
    a, b = (lab.Config(mtu=options.mtu, memory=options.memory, rdma=options.no_rdma not in (name, 'both'))
            for name in ('a', 'b'))
    return lab.Pair(a, b, keep=options.keep)


def run(options):
    command = options.argument[0] if len(options.argument) == 1 else shlex.join(options.argument)
    with pair(options) as machines:
        if options.on_b:
            other = machines.b.start(options.on_b)
            other.listener = lambda data: (sys.stderr.buffer.write(b'b| ' + data), sys.stderr.flush())
            if options.wait_for:
                other.wait_for(options.wait_for, options.timeout)
        process = machines.a.start(command)
        process.listener = lambda data: (sys.stdout.buffer.write(data), sys.stdout.flush())
        code = process.wait(options.timeout)
    return code if code >= 0 else 128 - code


def shell(options):
    begin = time.monotonic()
    with pair(options) as machines:
        print(f'Two machines ({machines.backend.name}) are ready after {time.monotonic() - begin:.1f} s.\n'
              f'a is {machines.a.ip} and {machines.a.ip6}, b is {machines.b.ip} and {machines.b.ip6}; names work.\n'
              f'Ctrl-] switches to the other machine. Both end when one shell exits.\n'
              f'Shared folder, here and in the machines: {machines.shared}')
        return terminal.converse(machines)


def which():
    backend = lab.choose()
    print(f'{backend.name} ({backend.why})')
    print(f'kernel: {(backend.folder / "version").read_text().strip()} in {backend.folder}')
    return 0


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the run folder is removed
    try:
        if options.command == 'kernel':
            print('lab: run ./dev lab kernel: the download needs apt, outside the userland', file=sys.stderr)
            return 2
        if options.command == 'which':
            return which()
        if options.command == 'selftest':
            return selftest.main(pair(options))
        if options.command == 'demo':
            return demo.main(pair(options))
        return {'shell': shell, 'run': run}[options.command](options)
    except lab.Unavailable as error:
        print(f'lab: {error}', file=sys.stderr)
        return 3
    except lab.LabError as error:
        print(f'lab: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
