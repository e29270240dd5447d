#!/usr/bin/env python3
"""Generates short texts with -sm tensor while connections are reset at random, and compares each with the first one.

The client's connections and the links between the servers lead through proxies. A text that differs, fails or takes longer than
--limit seconds ends the run with status 1."""
import argparse
import pathlib
import random
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests' / 'e2e'))
from harness import Lab
from processes import PROMPT, InBackground, completion
from proxy import proxies


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--texts', type=int, default=1000, help='[1000]')
    parser.add_argument('--servers', type=int, default=3, help='[3]')
    parser.add_argument('--slots', type=int, default=2, help='texts generated at the same time [2]')
    parser.add_argument('--tokens', type=int, default=24, help='of each text [24]')
    parser.add_argument('--every', type=float, default=0.05, help='mean seconds between resets [0.05]')
    parser.add_argument('--limit', type=float, default=60, help='seconds for a text [60]')
    parser.add_argument('--seed', type=int, default=1, help='[1]')
    return parser.parse_args()


def reset_at_random(done, via, every, choice):
    """All connections of a server, or only those that the program or another server opened."""
    while not done.wait(choice.expovariate(1 / every)):
        proxy = choice.choice(via)
        groups = [None, *proxy.openers()]
        proxy.cut(choice.choice(groups))


def main():
    options = arguments()
    choice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(pathlib.Path(folder))
        servers = [lab.server() for _ in range(options.servers)]
        done = threading.Event()
        try:
            with proxies(*servers) as via:
                llama = lab.llama_server(via, slots=options.slots, more=['-sm', 'tensor', '-fa', 'on', '-fit', 'off', '-lv', 4])
                for proxy in via:
                    proxy.openers = lambda: [[llama.pid], *([worker] for server in servers for worker in server.workers())]
                request = completion(PROMPT, options.tokens, ignore_eos=True)
                expected = llama.request('/completion', request)[1]['content']
                resets = threading.Thread(target=reset_at_random, args=(done, via, options.every, choice))
                resets.start()
                began, longest, number, wrong = time.monotonic(), 0.0, 0, 0
                while number < options.texts and not wrong:
                    begin = time.monotonic()
                    running = [InBackground(llama.request, '/completion', request, timeout=options.limit)
                               for _ in range(options.slots)]
                    answers = [one.result(options.limit + 5) for one in running]
                    longest = max(longest, time.monotonic() - begin)
                    number += len(answers)
                    for status, said in answers:
                        if status != 200 or said['content'] != expected:
                            wrong += 1
                            print(f'text {number}: status {status}: {said}')
                done.set()
                resets.join()
                print(f'{number} texts of {options.tokens} tokens on {options.servers} servers in {time.monotonic() - began:.0f} s: '
                      f'{wrong} wrong; {sum(proxy.cuts for proxy in via)} resets; the longest took {longest:.1f} s; '
                      f'{llama.count("reconnected over")} reconnects of the client; '
                      f'{llama.count("graph not computed")} failed graphs')
                if wrong:
                    print(llama.log()[-5000:])
                return 1 if wrong else 0
        finally:
            done.set()
            lab.close()


if __name__ == '__main__':
    sys.exit(main())
