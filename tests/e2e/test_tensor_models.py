"""Tensor parallelism (-sm tensor) with models of many architectures and depths."""
import json
import math
import subprocess
import sys

import pytest

from harness import local
from system import MAKE_MODELS, PATIENCE, PROMPT, SANITIZE

TENSOR = ['-sm', 'tensor', '-fa', 'on', '-fit', 'off']
# Three micro-batches, and a quantised KV cache.
LONG_PROMPT = PROMPT + ' created the heaven and the earth, and the earth was without form'
MORE = ['-fa', 'on', '-ub', 16, '-ctk', 'q8_0', '-ctv', 'q8_0']


def text(lab, model, servers, more=(), **options):
    return lab.run(['llama-completion', '-m', model, '-p', LONG_PROMPT, '-n', 24, '-c', 256, '--temp', 0, '-no-cnv', '-t', 1,
                    '--no-warmup', '--no-display-prompt', '--ignore-eos', '-lv', 4, *lab.where(servers), *MORE, *more], **options)


@pytest.mark.parametrize('count', [2] if SANITIZE else [2, 3, 4])
@pytest.mark.parametrize('name', ['llama-gqa-tied-f16', 'mixtral-q4_0', 'gemma2-f16', 'gpt-oss-mxfp4', 'lfm2-f16', 'qwen35-f16'])
def test_text_is_the_local_one(lab, models, name, count):
    model = models / f'{name}.gguf'
    wanted = local(('tensor', name), lambda: text(lab, model, [], ours=False).out)
    done = text(lab, model, [lab.server() for _ in range(count)], TENSOR)
    assert done.out == wanted and len(wanted) > 16
    assert 'direct all-reduce over tcp' in done.err


def model_of(folder, layers, heads=4):
    file = folder / f'{layers}-layers.gguf'
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', file, '--layers', str(layers), '--d', str(32 * heads),
                    '--heads', str(heads), '--ff', '128', '--vocab', '512', '--type', 'f16'], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return file


def counts(lab, model, servers, tokens):
    """By server: what a program that generates this many tokens has sent and launched."""
    file = lab.folder / f'stats-{model.stem}-{tokens}'
    lab.run(['llama-completion', '-m', model, '-p', PROMPT, '-n', tokens, '-c', 256, '--temp', 0, '-no-cnv', '-t', 1, '--no-warmup',
             '--ignore-eos', *lab.where(servers), '-ngl', 999, *TENSOR], env={'GGML_RPC_STATS': file})
    return {record['endpoint']: record['since_load'] for record in map(json.loads, file.read_text().splitlines())}


@pytest.mark.parametrize('count', [3, 12])
def test_many_servers_cost_no_more_sends(lab, count):
    """Each server has a part of the result. All parts are requested with the last launches, however many these are."""
    layers = 4
    model = model_of(lab.folder, layers, heads=16)
    servers = [lab.server() for _ in range(count)]
    few, many = counts(lab, model, servers, 20), counts(lab, model, servers, 60)
    for server in servers:
        sends = (many[server.endpoint]['sends'] - few[server.endpoint]['sends']) / 40
        assert sends <= 2 + math.log2(2 * layers), (sends, few, many)


def test_cost_of_a_token_by_layers(lab):
    """No limit is met at 32, 64 or 128 layers: the bytes of a token grow with each layer by the same number."""
    servers = [lab.server(), lab.server()]
    sent = {}
    for layers in (28, 65, 80) if SANITIZE else (28, 33, 65, 80, 129):
        model = model_of(lab.folder, layers)
        few, many = counts(lab, model, servers, 20), counts(lab, model, servers, 60)
        model.unlink()
        for server in servers:
            grown = {key: (many[server.endpoint][key] - few[server.endpoint][key]) / 40 for key in
                     ('sends', 'launches', 'round_trips', 'bytes_sent', 'bytes_received')}
            assert grown['launches'] == 2 * layers + 1
            assert grown['sends'] <= 2 + math.log2(2 * layers), (layers, grown)
            assert grown['round_trips'] <= 1.1
            # Half of the logits. An activation has 512 bytes, and a token has 2 for each layer.
            assert grown['bytes_received'] < 512 * 4 / 2 + 100, (layers, grown)
            sent[layers, server] = grown['bytes_sent']
    for server in servers:
        by_layer = (sent[80, server] - sent[28, server]) / (80 - 28)
        assert by_layer < 512
        for layers in (layers for layers, other in sent if other is server):
            expected = sent[28, server] + (layers - 28) * by_layer
            assert abs(sent[layers, server] - expected) < 0.005 * expected, (layers, sent[layers, server], expected)
