"""Where things are, a clean environment for child processes, and what /proc says of them. Every wait has a deadline."""
import glob
import ctypes
import os
import re
import resource
import signal
import socket
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get('CARAVAN_BIN') or ROOT / 'build' / 'bin')
PLUGIN = BIN / 'libggml-rpc-caravan.so'
RPC_SERVER = BIN / 'rpc-server'
SANITIZE = os.environ.get('CARAVAN_SANITIZE', '')
DRAIN_LOG = str(BIN / 'libdrain-log.so')  # for all tools of llama.cpp
assert Path(DRAIN_LOG).exists(), f'{DRAIN_LOG} is missing: build the target drain-log'
# Sanitizers look for the C++ library when a program starts. Python loads it later, with ggml's back-ends, which throw
# exceptions.
PRELOAD = ':'.join(filter(None, [os.environ.get('CARAVAN_PRELOAD'), 'libstdc++.so.6' if SANITIZE else None, DRAIN_LOG]))
MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
TEXT = ROOT / 'models' / 'sample.txt'
MAKE_MODELS = ROOT / 'tests' / 'models' / 'make_models.py'
PROMPT = 'In the beginning God'

# Deadlines here are for machines that are busy, not for how long things should take.
PATIENCE = 180 if SANITIZE else 60

REPORT = re.compile(r'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: ')

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _stock(pattern):
    found = sorted(glob.glob(pattern))
    return Path(found[0]) if found else None


STOCK_SERVER = _stock('/usr/libexec/*/llama/bin/ggml-rpc-server')
TEST_BACKEND_OPS = _stock('/usr/libexec/*/ggml/test-backend-ops')
TEST_OPT = _stock('/usr/libexec/*/llama.cpp-tests/test-opt')


def eventually(condition, what, timeout=None):
    """Waits until condition() is true, and returns what it returned. Fails with `what` and its last value."""
    deadline = time.monotonic() + (timeout or PATIENCE)
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f'{what}: not within {timeout or PATIENCE} s (last: {value!r})'
        time.sleep(0.02)


def free_port(host='127.0.0.1'):
    """For programs that cannot be told to take any: it may be gone by the time they ask, so let callers try again."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def has_ipv6():
    try:
        free_port('::1')
        return True
    except OSError:
        return False


def landlock_version():
    """Of the kernel's; -1 without."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1)


def children(pid):
    """Process ids of the children of `pid`, the oldest first, zombies left out."""
    found = []
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                fields = Path(f'/proc/{entry}/stat').read_text().rpartition(')')[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != 'Z':
                found.append((int(fields[19]), int(entry)))  # with its start time: process ids begin again after the largest
    return [child for _, child in sorted(found)]


def is_alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def tcp_ports(pid):
    """Local ports of the IPv4 connections of a process."""
    owned = set()
    try:
        for name in os.listdir(f'/proc/{pid}/fd'):
            try:
                owned.add(os.readlink(f'/proc/{pid}/fd/{name}'))
            except OSError:
                pass  # closed meanwhile
        lines = [line.split() for line in Path(f'/proc/{pid}/net/tcp').read_text().splitlines()[1:]]
    except OSError:
        return set()
    return {int(fields[1].partition(':')[2], 16) for fields in lines if f'socket:[{fields[9]}]' in owned}


def cpu_seconds(pid):
    """Processor time of a process, all its threads."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def environment(ours, extra=None, tool=True):
    """A clean environment: nothing of the caller's reaches ggml. `ours`: load our plug-in. `tool`: a stock program."""
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(('GGML_', 'LLAMA_', 'CARAVAN_', 'LD_PRELOAD', 'OMP_'))}
    env['OMP_NUM_THREADS'] = '1'
    # Without it each program loads Mesa's Vulkan driver, which takes longer than the rest of its start.
    env['VK_DRIVER_FILES'] = '/nonexistent'
    # The installed tools, not our launchers of the same names.
    env['PATH'] = ':'.join(folder for folder in env['PATH'].split(':') if not Path(folder, PLUGIN.name).exists())
    if tool:
        env['LD_PRELOAD'] = PRELOAD if ours else DRAIN_LOG
    if ours and tool:
        env['GGML_BACKEND_PATH'] = str(PLUGIN)
    # Leaks of the stock tools, and of ggml's registry, are not ours to judge; the server is checked.
    env['ASAN_OPTIONS'] = f'detect_leaks={0 if tool else 1}:allocator_may_return_null=1:exitcode=99'
    env['UBSAN_OPTIONS'] = 'print_stacktrace=1:halt_on_error=1:exitcode=99'
    # The stock tools and ggml are not instrumented, so nothing is known of their locks. By itself it sleeps at exit.
    # A worker ends without waiting for the threads of its links.
    env['TSAN_OPTIONS'] = ('ignore_noninstrumented_modules=1:allocator_may_return_null=1:atexit_sleep_ms=0:exitcode=99:'
                           'report_thread_leaks=0')
    env.update({name: str(value) for name, value in (extra or {}).items() if value is not None})
    return env


def before_exec():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
