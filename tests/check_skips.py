"""Prints which tests the last run of ctest in BUILD skipped, and why. With CARAVAN_NO_SKIPS=1, as in CI, it fails if one was
skipped because this machine lacks something.

Usage: check_skips.py BUILD
"""
import os
import pathlib
import re
import sys

# Reasons that lie in the build or the kind of test: another build, or the lab, runs these tests.
EXPECTED = re.compile(r'this build injects no faults|a build without RDMA|the kernels are not instrumented|forks'
                      r'|no RDMA device|an RDMA device is here|sanitize', re.IGNORECASE)
PYTEST = re.compile(r'^SKIPPED \[\d+\] (\S+): (.*)$', re.M)
GTEST = re.compile(r'^(\S+\.cc:\d+): Skipped\n(.*)$', re.M)


def main():
    log = pathlib.Path(sys.argv[1], 'Testing/Temporary/LastTest.log').read_text(errors='replace')
    skipped = sorted({found.groups() for pattern in (PYTEST, GTEST) for found in pattern.finditer(log)})
    missing = [(where, reason) for where, reason in skipped if not EXPECTED.search(reason)]
    for where, reason in missing:
        print(f'skipped: {where}: {reason}')
    if missing and os.environ.get('CARAVAN_NO_SKIPS') == '1':
        sys.exit('CARAVAN_NO_SKIPS=1: no test may be skipped for what this machine lacks')


main()
