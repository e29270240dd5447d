"""node-llama-cpp: a program with a ggml of its own, of another version and with other library names."""
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from system import MODEL, PLUGIN, PROMPT, ROOT

pytestmark = pytest.mark.extra

NODE = os.environ.get('CARAVAN_NODE')  # a folder with node and the packages of tests/node; ./dev test extra makes it
TOKENS = 32


@pytest.fixture
def generate(lab):
    if not NODE:
        pytest.skip('node and npm are not installed here')
    # Packages are found from the program's folder.
    shutil.copy(ROOT / 'tests' / 'node' / 'generate.mjs', lab.folder)
    (lab.folder / 'node_modules').symlink_to(Path(NODE, 'node_modules'))

    def run(layers, **env):
        program = [Path(NODE, 'node'), '--preserve-symlinks', lab.folder / 'generate.mjs', MODEL, PROMPT, TOKENS, layers]
        done = lab.run(program, ours=False, tool=False, env=env, cwd=lab.folder)
        return json.loads(done.out), done
    return run


def test_text_is_the_local_one(lab, generate):
    servers = [lab.server(), lab.server()]
    wanted, _ = generate(0)
    got, done = generate(99, GGML_BACKEND_PATH=PLUGIN, GGML_RPC_SERVERS=','.join(server.endpoint for server in servers))
    assert got == wanted and len(got) > 50
    assert done.lines(r'offloaded 7/7 layers to GPU')
    for server in servers:
        server.wait_for(rf'graphs? computed {TOKENS} times')


def test_only_its_own_ggml_is_loaded(lab, generate):
    _, done = generate(0, GGML_BACKEND_PATH=PLUGIN, LD_DEBUG='files')
    loaded = set(re.findall(r'calling init: (\S*/libggml[^/\s]*)', done.err))
    assert str(PLUGIN) in loaded
    assert all(NODE in os.path.realpath(library) for library in loaded - {str(PLUGIN)}), loaded
