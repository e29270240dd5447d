"""Models of many kinds over the network: their logits are this machine's own, to the last bit."""
import re
import subprocess
import sys

import pytest

from harness import local_logits, same
from system import MAKE_MODELS, SANITIZE

ALL = re.findall(r'^(\S+)', subprocess.run([sys.executable, MAKE_MODELS, '--list'], capture_output=True, text=True,
                                           check=True, timeout=60).stdout, re.M)
# What differs most on the wire: experts, two kinds of memory in one model, recurrent state.
TELLING = ['mixtral-q4_0', 'qwen35-f16', 'gemma2-f16', 'rwkv7-f16']


@pytest.mark.parametrize('name', TELLING if SANITIZE else ALL)
def test_two_of_our_servers(lab, models, name):
    servers = [lab.server(), lab.server()]
    model = models / f'{name}.gguf'
    same(lab.logits(servers, model, chunks=2), local_logits(lab, model, chunks=2))
    assert all(server.served() > 0 for server in servers)


@pytest.mark.parametrize('name', TELLING[:1] if SANITIZE else TELLING)
@pytest.mark.parametrize('client', ['ours', 'stock'])
def test_with_stock(lab, models, client, name):
    server = lab.stock_server() if client == 'ours' else lab.server()
    model = models / f'{name}.gguf'
    same(lab.logits([server], model, ours=client == 'ours', chunks=2), local_logits(lab, model, chunks=2))
    assert server.is_stock or server.served() > 0


@pytest.mark.parametrize('name', ['llama-gqa-tied-f16', 'gemma2-f16'])
def test_without_flash_attention(lab, models, name):
    servers = [lab.server(), lab.server()]
    model, more = models / f'{name}.gguf', ['-fa', 'off']
    same(lab.logits(servers, model, chunks=2, more=more), local_logits(lab, model, chunks=2, more=more))


# A micro-batch without outputs leaves nodes without elements, and a hybrid model views beyond the end of a buffer.
@pytest.mark.parametrize('name', ['llama-gqa-tied-f16', 'qwen35-f16'])
@pytest.mark.parametrize('client', ['ours', 'stock'])
def test_split_by_tensor(lab, models, client, name):
    model, more = models / f'{name}.gguf', ['-sm', 'tensor', '-fa', 'on', '-ub', 16]
    stock = [lab.stock_server(), lab.stock_server()]
    wanted = lab.logits(stock, model, ours=False, chunks=2, more=more, env={'GGML_RPC_NO_COMM': '1'})
    ours = [lab.server(), lab.server()]
    same(lab.logits(ours, model, ours=client == 'ours', chunks=2, more=more), wanted)
    assert all(server.served() > 0 for server in ours)
