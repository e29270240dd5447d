"""Faults during tensor parallelism (-sm tensor): of the servers, of their links, and of the client's connections."""
import contextlib

import pytest

from processes import InBackground, completion
from proxy import Proxy
from system import PROMPT, eventually

TENSOR = ['-sm', 'tensor', '-fa', 'on', '-fit', 'off']


@contextlib.contextmanager
def proxies(*servers):
    made = [Proxy(server) for server in servers]
    try:
        yield made
    finally:
        for proxy in made:
            proxy.close()


def text(llama, n=120):
    status, said = llama.request('/completion', completion(PROMPT, n, ignore_eos=True), timeout=120)
    assert status == 200, said
    return said['content']


def break_link(via, servers):
    """The link that the first server opened to the second one, for good."""
    via.refused_processes = servers[0].workers()
    via.cut(via.refused_processes)


def test_a_lost_link_fails_one_request(lab):
    """The sessions live, so the next request makes the group again."""
    servers = [lab.server('--session-grace', 1, env={'GGML_RPC_RECONNECT_S': 1}) for _ in range(2)]
    with proxies(servers[1]) as [via]:
        llama = lab.llama_server([servers[0], via], more=[*TENSOR, '--context-shift', '-lv', 4])
        expected = text(llama)
        for broken in range(1, 3):
            request = InBackground(llama.request, '/completion', completion(PROMPT, 100_000, ignore_eos=True))
            passed = via.passed
            eventually(lambda: via.passed > passed + 100_000, 'it generates')
            break_link(via, servers)
            status, said = request.result(30)
            assert status == 500, said
            via.refused_processes = ()
            assert text(llama) == expected
            assert llama.count('direct all-reduce over tcp') == 1 + broken
        assert llama.count('is lost') == 0
        assert llama.count('no direct all-reduce') == 0
        assert llama.count(rf'the link with rank .* of the group broke.*rank 1: {via.endpoint}\)') >= 1, llama.log()


def test_servers_that_cannot_reach_each_other_any_more(lab):
    """The tensors are copied through the client from then on."""
    servers = [lab.server('--session-grace', 1, env={'GGML_RPC_RECONNECT_S': 1}) for _ in range(2)]
    with proxies(servers[1]) as [via]:
        llama = lab.llama_server([servers[0], via], more=[*TENSOR, '-lv', 4])
        expected = text(llama, 8)
        break_link(via, servers)
        assert llama.request('/completion', completion(PROMPT, 8))[0] == 500
        assert text(llama, 8) == text(llama, 8) == expected
        assert llama.count('no direct all-reduce, .*cannot open a link') == 1
