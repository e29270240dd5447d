"""Messages that are lost, late, cut off or altered: GGML_RPC_FAULT, in builds that have it. Nothing of it reaches the text."""
import subprocess

import pytest

from processes import completion
from system import PROMPT, RPC_SERVER

VERSION = subprocess.run([RPC_SERVER, '--version'], capture_output=True, text=True, check=True).stdout
pytestmark = pytest.mark.skipif('GGML_RPC_FAULT' not in VERSION, reason='this build injects no faults')

KINDS = ['drop', 'delay', 'reset', 'truncate', 'corrupt']
TOKENS = 150


def text(llama):
    status, said = llama.request('/completion', completion(PROMPT, TOKENS, ignore_eos=True), timeout=120)
    assert status == 200, said
    return said['content']


def faults(kind, first, every=25):
    """Three of a kind. One token is one message in each direction; those of the load were sent before."""
    n = {'delay': ':300', 'truncate': ':10', 'corrupt': ':20'}.get(kind, '')
    return ','.join(f'{kind}@{first + i * every}{n}' for i in range(3))


@pytest.fixture(scope='module')
def expected():
    return {}


@pytest.mark.parametrize('side', ['client', 'server'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_text_is_the_same(lab, expected, kind, side):
    if not expected:
        expected[0] = text(lab.llama_server([lab.server()]))
    # The client sends the weights first.
    env = {'GGML_RPC_FAULT': faults(kind, 150 if side == 'client' else 15)}
    server = lab.server(env=env if side == 'server' else None)
    llama = lab.llama_server([server], env=env if side == 'client' else None)
    assert text(llama) == expected[0]
    faulty = llama if side == 'client' else server
    assert faulty.count('fault: ') >= 3  # a server counts for each session
    if kind != 'delay':
        assert server.count('Connected again: ') >= 3
    assert server.count(r'\(session 1\)') >= 1 and server.count('is lost') == llama.count('is lost') == 0


