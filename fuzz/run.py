#!/usr/bin/env python3
"""Runs fuzz targets, each for SECONDS, one per processor at a time, and prints a table. ./dev fuzz calls it.

    run.py BUILD [TARGET] [SECONDS]
    run.py BUILD --changed SECONDS BUDGET

New inputs are added to BUILD/corpus/TARGET, reproducers to BUILD/findings, logs to BUILD/logs. The exit code is 1 if there
is a finding. After a run of a minute or longer without a finding, the digest of the target's code is written to
fuzz/fuzzed.json. --changed skips targets whose code has not changed since, and runs the others for SECONDS at most, and for
BUDGET seconds in all.
"""
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
FUZZED = FUZZ / 'fuzzed.json'
ENOUGH_SECONDS = 60
# Maximum input size in bytes, where it is not libFuzzer's default of 4096.
LONGEST = {'stock_session': 32768, 'native_session': 32768, 'computing_session': 32768, 'stock_graph': 8192,
           'native_graph': 8192, 'warm_graphs': 8192, 'client': 16384}
# Further corpora that a target starts from.
MORE_SEEDS = {'computing_session': ['stock_session', 'native_session'], 'native_session': ['stock_session']}
# Run only when named: it finds faults in ggml's kernels, outside this project. Their leaks are not findings.
BY_NAME_ONLY = ['computing_session']


def targets(build):
    return sorted(path.name.removeprefix('fuzz-') for path in (build / 'bin').glob('fuzz-*'))


def ninja(build, *arguments):
    return subprocess.run(['ninja', '-C', str(build), *arguments], check=True, capture_output=True, text=True).stdout


def code_digests(build, chosen):
    """{target: digest of the files of this project that are compiled into it}."""
    root, files_of, current = FUZZ.parent, {}, None
    for line in ninja(build, '-t', 'deps').splitlines():
        if not line.startswith(' '):
            current = files_of.setdefault(line.split(':')[0], [])
        elif line.strip():
            path = Path(build, line.strip()).resolve()
            if path.is_relative_to(root) and not path.is_relative_to(build):
                current.append(path)
    digests = {}
    for target in chosen:
        inputs = ninja(build, '-t', 'inputs', f'bin/fuzz-{target}').split()
        files = sorted({path for name in inputs for path in files_of.get(name, [])})
        if not files:
            sys.exit(f'fuzz: ninja lists no source files for {target}')
        whole = hashlib.sha256()
        for path in files:
            whole.update(f'{path.relative_to(root)}\0'.encode() + hashlib.sha256(path.read_bytes()).digest())
        digests[target] = whole.hexdigest()
    return digests


def run(build, target, seconds):
    """Runs one target. Returns (executions, coverage, features, units, seconds, reproducers)."""
    own, findings = build / 'corpus' / target, build / 'findings'
    for folder in (own, findings, build / 'logs'):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = [FUZZ / 'corpus' / name for name in [target, *MORE_SEEDS.get(target, [])]]
    before = set(findings.glob(f'{target}-*'))
    log = build / 'logs' / f'{target}.log'
    # A memory leak is a finding, too.
    leaks = int(target not in BY_NAME_ONLY)
    env = {**os.environ, 'ASAN_OPTIONS': f'allocator_may_return_null=1:detect_leaks={leaks}', 'OMP_NUM_THREADS': '1',
           'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1'}
    with open(log, 'wb') as out:
        subprocess.run([str(build / 'bin' / f'fuzz-{target}'), str(own), *(str(seed) for seed in seeds if seed.is_dir()),
                        f'-max_total_time={seconds}', '-timeout=20', '-rss_limit_mb=2048', '-print_final_stats=1',
                        f'-max_len={LONGEST.get(target, 4096)}', f'-dict={FUZZ / "rpc.dict"}',
                        f'-artifact_prefix={findings}/{target}-'], stdout=out, stderr=out, env=env, check=False,
                       timeout=seconds + 300)
    text = log.read_text(errors='replace')
    status = re.findall(r'^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)', text, re.M)
    executions, coverage, features, units = (int(word) for word in status[-1]) if status else (0, 0, 0, 0)
    total = re.search(r'number_of_executed_units: (\d+)', text)
    found = sorted(set(findings.glob(f'{target}-*')) - before)
    if not found and 'DONE' not in text and 'Done ' not in text:
        found = [log]
    return int(total.group(1)) if total else executions, coverage, features, units, found


def main():
    build, words = Path(sys.argv[1]).resolve(), sys.argv[2:]
    known = targets(build)
    chosen = [target for target in known if target not in BY_NAME_ONLY]
    fuzzed = json.loads(FUZZED.read_text()) if FUZZED.exists() else {}
    only_changed = words[:1] == ['--changed']
    if only_changed:
        words.pop(0)
        budget = int(words[1])
    elif words and not words[0].isdigit():
        chosen = [words.pop(0)]
        if chosen[0] not in known:
            sys.exit(f'fuzz: unknown target {chosen[0]}; known targets: {", ".join(known)}')
    seconds = int(words[0]) if words else ENOUGH_SECONDS
    processors = len(os.sched_getaffinity(0))
    digests = code_digests(build, chosen)
    if only_changed:
        same = [target for target in chosen if fuzzed.get(target) == digests[target]]
        chosen = [target for target in chosen if target not in same]
        if same:
            print(f'skipping targets without code changes: {", ".join(same)}')
        if not chosen:
            return
        seconds = max(1, min(seconds, budget * processors // len(chosen)))
        print(f'fuzzing {len(chosen)} targets for {seconds} s each')
    print(f'{"target":18} {"executions":>11} {"coverage":>9} {"features":>9} {"inputs":>7}  findings', flush=True)
    all_found = []
    with ThreadPoolExecutor(processors) as several:
        for target, result in zip(chosen, several.map(lambda target: run(build, target, seconds), chosen)):
            executions, coverage, features, units, found = result
            all_found += found
            print(f'{target:18} {executions:11} {coverage:9} {features:9} {units:7}  {len(found) or "none"}', flush=True)
            if seconds >= ENOUGH_SECONDS and not found and executions > 0:
                fuzzed[target] = digests[target]
                FUZZED.write_text(json.dumps(fuzzed, indent=1, sort_keys=True) + '\n')
    for path in all_found:
        print(f'finding: {path}')
    sys.exit(1 if all_found else 0)


if __name__ == '__main__':
    main()
