"""A GPU without hardware: ggml's Vulkan back-end on lavapipe, Mesa's Vulkan driver for the CPU. ggml lists it only if
GGML_VK_VISIBLE_DEVICES names it."""
import functools
from pathlib import Path

from system import BIN, MODEL, PROMPT

DRIVER = next(iter(sorted(Path('/usr/share/vulkan/icd.d').glob('lvp_icd*'))), None)
# Compiled pipelines: without them a model takes seconds to start.
CACHE = BIN.parent / 'shaders'
VISIBLE = {'GGML_VK_VISIBLE_DEVICES': 0, 'VK_DRIVER_FILES': DRIVER, 'LP_NUM_THREADS': 1, 'MESA_SHADER_CACHE_DIR': CACHE}


def server(lab, *options, devices='Vulkan0', env=None, **more):
    CACHE.mkdir(exist_ok=True)
    return lab.server('-d', devices, *options, env={**VISIBLE, **(env or {})}, **more)


def stock_server(lab, devices='Vulkan0'):
    return lab.stock_server('-d', devices, env=VISIBLE)


def completion(servers, model=MODEL, n=24, more=()):
    """Arguments of llama-completion. Without servers: on the local GPU."""
    where = ['--rpc', ','.join(server.endpoint for server in servers)] if servers else ['--device', 'Vulkan0']
    return ['llama-completion', '-m', model, '-p', PROMPT, '-n', n, '-c', 256, '--temp', 0, '-t', 1, '-no-cnv', '--no-warmup',
            '--no-display-prompt', '--no-perf', '-lv', 0, '--simple-io', '--ignore-eos', '-ngl', 99, *where, *more]


def text(lab, servers, ours=True, **options):
    """What llama-completion prints. Without servers: on the local GPU."""
    argv = completion(servers, **options)
    env = None if servers else VISIBLE
    return lab.run(argv, ours=ours and bool(servers), env=env).out


@functools.cache
def _local_texts():
    return {}


def local_text(lab, **options):
    key = repr(sorted(options.items()))
    if key not in _local_texts():
        _local_texts()[key] = text(lab, [], **options)
    return _local_texts()[key]


def same_text(got, wanted):
    assert got == wanted and len(wanted) > 16, (got, wanted)
