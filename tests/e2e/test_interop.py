"""Every pairing of our client and server with stock's computes what this machine's own CPU computes, to the last bit."""
import json

import pytest

from harness import local_logits, local_text, same
from processes import InBackground
from system import MODEL, PROMPT, TEXT, has_ipv6

PROMPTS = [PROMPT, 'And the waters']

# Is the client ours? Which servers?
PAIRINGS = [('ours', 'ours'), ('ours', 'stock'), ('stock', 'ours'),
            ('ours', 'ours+ours'), ('ours', 'stock+stock'), ('stock', 'ours+ours'), ('ours', 'ours+stock')]


def start(lab, kinds):
    return [lab.server() if kind == 'ours' else lab.stock_server() for kind in kinds.split('+')]


def assert_all_served(servers):
    for server in servers:
        assert server.is_stock or server.served() > 0, f'{server.endpoint} computed nothing'


@pytest.mark.parametrize('client,kinds', PAIRINGS, ids=lambda value: value)
def test_logits_and_text_equal_local(lab, client, kinds):
    wanted_text = local_text(lab, PROMPTS)
    servers = start(lab, kinds)
    same(lab.logits(servers, ours=client == 'ours'), local_logits(lab))
    llama = lab.llama_server(servers, ours=client == 'ours')
    assert [llama.complete(prompt) for prompt in PROMPTS] == wanted_text
    llama.stop()
    assert_all_served(servers)


def test_completion_equals_local(lab):
    servers = [lab.server()]

    def text(servers):
        return lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 32, '--temp', 0, '-t', 1, '-no-cnv',
                        '--no-warmup', '--no-display-prompt', '--no-perf', '-lv', 0, '--simple-io',
                        *lab.where(servers)], ours=bool(servers)).out
    wanted, got = text([]), text(servers)
    assert got == wanted and len(wanted) > 16


def test_unix_socket(lab):
    server = lab.server(host=f'unix:{lab.folder}/rpc.sock')
    assert server.endpoint == f'unix:{lab.folder}/rpc.sock'
    same(lab.logits([server]), local_logits(lab))
    assert_all_served([server])


def test_sessions_over_a_unix_socket_end_with_their_clients(lab):
    """They could wait for a client that had left to come back, as over a network that was cut."""
    server = lab.server(host=f'unix:{lab.folder}/rpc.sock')
    for _ in range(8):
        lab.logits([server], chunks=1)
        server.wait_idle(timeout=30)


@pytest.mark.skipif(not has_ipv6(), reason='no IPv6 here')
def test_ipv6(lab):
    server = lab.server(host='::1')
    assert server.endpoint.startswith('[::1]:')
    same(lab.logits([server]), local_logits(lab))
    assert_all_served([server])


def test_layers_split_unevenly_over_two_servers(lab):
    servers = start(lab, 'ours+ours')
    same(lab.logits(servers, more=['-ts', '1,3']), local_logits(lab))
    assert_all_served(servers)


def test_split_mode_row_is_refused(lab):
    """It needs buffers that no RPC back-end has: llama.cpp says so, in the stock client's words."""
    servers = start(lab, 'ours+ours')
    done = lab.run(['llama-perplexity', '-m', MODEL, '-f', TEXT, '-c', 64, '--chunks', 1, '-sm', 'row',
                    *lab.where(servers)], rc=1)
    assert done.lines('RPC0 does not support split buffers') or done.lines('failed to load model')


def test_micro_batches_flow_through_two_servers(lab):
    """A prompt in several micro-batches: the second server works on one while the first has the next."""
    servers = start(lab, 'ours+ours')
    more = ['-b', 64, '-ub', 16]
    same(lab.logits(servers, more=more), local_logits(lab, more=more))
    assert_all_served(servers)


def test_batched_bench_with_four_sequences(lab):
    servers = start(lab, 'ours+ours')
    done = lab.run(['llama-batched-bench', '-m', MODEL, '-c', 512, '-b', 64, '-ub', 32, '-npp', 24, '-ntg', 16,
                    '-npl', '1,4', '-t', 1, *lab.where(servers), '--output-format', 'jsonl'])
    rows = [json.loads(line) for line in done.out.splitlines() if line.startswith('{')]
    if rows:  # it may lose the end of what it says
        assert rows[0]['pl'] == 1
    assert_all_served(servers)


def test_parallel_requests(lab):
    """Two requests at once in one llama-server, several times: each gets the text that it gets alone."""
    wanted = local_text(lab, PROMPTS)
    servers = start(lab, 'ours+ours')
    llama = lab.llama_server(servers)
    for _ in range(3):
        requests = [InBackground(llama.complete, prompt) for prompt in PROMPTS]
        assert [request.result() for request in requests] == wanted
    llama.stop()
    assert_all_served(servers)
