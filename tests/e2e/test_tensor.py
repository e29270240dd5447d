"""Tensor parallelism (-sm tensor): the servers add up tensors among themselves."""
import json
import math
import os
import signal
import struct
import time

import pytest

import stockwire
from harness import local
from stockwire import command, is_dropped, receive, receive_reply
from system import MODEL, PROMPT, RPC_SERVER, SANITIZE, eventually

TENSOR = ['-sm', 'tensor', '-fa', 'on', '-fit', 'off']
WORDS = ['-p', PROMPT, '-n', 60, '--temp', 0, '-no-cnv', '-t', 1, '--no-warmup', '--no-display-prompt', '-lv', 4]
LAYERS = 6  # of MODEL


def text(lab, servers, more=TENSOR, **options):
    return lab.run(['llama-completion', '-m', MODEL, *WORDS, *lab.where(servers), *more], ours=bool(servers), **options)


def local_text(lab):
    return local(('tensor text',), lambda: text(lab, [], []).out)


def reduces(log):
    return 'direct all-reduce over' in log


@pytest.mark.parametrize('count', [2, 3] if SANITIZE else [2, 3, 4])
def test_text_is_the_local_one(lab, count):
    servers = [lab.server() for _ in range(count)]
    done = text(lab, servers)
    assert done.out == local_text(lab)
    assert f'RPC servers {", ".join(server.endpoint for server in servers)}: direct all-reduce over tcp' in done.err


SHARES = r'rank \d of the group is on this machine: reductions use shared memory'


@pytest.mark.parametrize('count', [2, 3])
def test_servers_of_one_machine_share_memory(lab, count):
    servers = [lab.server() for _ in range(count)]
    assert text(lab, servers).out == local_text(lab)
    for server in servers:
        assert server.count(SHARES) == count - 1, server.log()
    if count == 2:  # each program's group does so
        text(lab, servers)
        assert [server.count(SHARES) for server in servers] == [2, 2]


@pytest.mark.parametrize('without', [0, 1])
def test_a_server_that_shares_no_memory(lab, without):
    servers = [lab.server(env={'GGML_RPC_SHM': 'off'} if i == without else {}) for i in range(2)]
    assert text(lab, servers).out == local_text(lab)
    assert not any(server.count('of the group is on this machine') for server in servers)


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root')
def test_servers_in_different_process_namespaces(lab):
    """They recognize the machine, cannot share memory, and use the link."""
    apart = lab.folder / 'apart'
    apart.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc --kill-child {RPC_SERVER} "$@"\n')
    apart.chmod(0o755)
    servers = [lab.server(program=apart), lab.server()]
    assert text(lab, servers).out == local_text(lab)
    logs = ''.join(server.log() for server in servers)
    assert 'of the group is on this machine, but memory cannot be shared with it: ' in logs
    assert 'reductions use shared memory' not in logs


def test_three_servers_log_the_algorithms(lab):
    servers = [lab.server(env={'GGML_RPC_DEBUG': 1}) for _ in range(3)]
    text(lab, servers)
    name = '(direct|doubling|scatter)'
    chosen = {server.wait_for(f'All-reduce over 3 servers: (({name} up to (8|64) KiB, )*{name})\n').group(1) for server in servers}
    assert len(chosen) == 1, 'all chose alike'


def log_probabilities(saved):
    """Of llama-perplexity --save-all-logits: u16 numbers with a scale and a minimum for each position."""
    n_context, n_vocab, n_chunks = struct.unpack_from('<3i', saved, 8)
    entry = 2 * ((n_vocab + 1) // 2) + 4
    data = saved[20 + 4 * n_context * n_chunks:]
    for at in range(0, len(data), 2 * entry):
        scale, low = struct.unpack_from('<2f', data, at)
        yield from (low + scale * number for number in struct.unpack_from(f'<{n_vocab}H', data, at + 8))


@pytest.mark.parametrize('count', [2, 3])
def test_prompts_can_be_rounded(lab, count):
    servers = [lab.server() for _ in range(count)]
    exact, rounded = (list(log_probabilities(lab.logits(servers, chunks=1, env={'GGML_RPC_REDUCE': precision}, more=TENSOR)))
                      for precision in ('f32', 'bf16'))
    differences = [abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    assert 0 < sum(differences) / len(differences) < 0.1


def test_several_devices_of_a_server_form_one_rank(lab):
    servers = [lab.server('-d', 'CPU,CPU'), lab.server()]
    done = text(lab, servers)
    assert done.out == local_text(lab)
    assert done.lines(rf'RPC servers {servers[0].endpoint}, {servers[1].endpoint}: direct all-reduce')


def test_devices_of_one_server_need_no_link(lab):
    server = lab.server('-d', 'CPU,CPU,CPU', '--links', 'off')
    done = text(lab, [server])
    assert done.out == local_text(lab)
    assert done.lines(rf'RPC server {server.endpoint}: direct all-reduce$')


def test_a_stock_server_among_them(lab):
    servers = [lab.server(), lab.stock_server()]
    done = text(lab, servers)
    assert done.out == local_text(lab) and not reduces(done.err)
    reason, = done.lines('no direct all-reduce')
    assert servers[1].endpoint in reason and 'its server is a stock one' in reason


def test_servers_without_links(lab):
    servers = [lab.server('--links', 'off'), lab.server()]
    done = text(lab, servers)
    assert done.out == local_text(lab) and not reduces(done.err)
    assert len(done.lines('no direct all-reduce, .*cannot open a link')) == 1


def counts(lab, servers, tokens):
    """By server: what a program that generates this many tokens has sent and launched."""
    file = lab.folder / f'stats-{tokens}'
    lab.run(['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', tokens, '--temp', 0, '-no-cnv', '-t', 1, '--no-warmup',
             '--ignore-eos', *lab.where(servers), *TENSOR], env={'GGML_RPC_STATS': file})
    return {record['endpoint']: record['since_load'] for record in map(json.loads, file.read_text().splitlines())}


def test_a_token_is_sent_ahead(lab):
    """2L + 1 launches and 2L sums for each server, in few sends, and one reply awaited."""
    servers = [lab.server(), lab.server()]
    few, many = counts(lab, servers, 40), counts(lab, servers, 140)
    for server in servers:
        grown = {key: (many[server.endpoint][key] - few[server.endpoint][key]) / 100 for key in
                 ('sends', 'launches', 'round_trips', 'bytes_sent', 'bytes_received')}
        assert grown['launches'] == 2 * LAYERS + 1
        assert grown['sends'] <= 2 + math.log2(2 * LAYERS)
        assert grown['round_trips'] <= 1.1
        assert grown['bytes_sent'] < 2500, 'inputs that nothing reads are not sent'
        assert grown['bytes_received'] < 8300, 'half of the logits, and no activations'


@pytest.mark.parametrize('count', [2, 3])
def test_trace_shows_the_parts_of_reductions_on_one_clock(lab, count):
    servers = [lab.server() for _ in range(count)]
    file = lab.folder / 'trace.json'
    text(lab, servers, env={'GGML_RPC_TRACE': file})
    spans = [event for event in json.loads(file.read_text())['traceEvents'] if event['ph'] == 'X']

    def of(pid, name):
        return sorted((span['ts'], span['ts'] + span['dur']) for span in spans if span['pid'] == pid and span['name'] == name)
    reductions = [of(pid, 'REDUCE') for pid in range(1, count + 1)]
    assert len({len(own) for own in reductions}) == 1 and len(reductions[0]) >= 2 * LAYERS * 50
    rounding = 0.002
    for pid, own in enumerate(reductions, 1):
        for name in ('REDUCE wait', 'REDUCE wire', 'REDUCE add'):
            parts = of(pid, name)
            # With doubling, the third rank adds nothing.
            assert len(parts) >= len(own) or (pid, name) == (3, 'REDUCE add'), 'each reduction has this part'
            place = 0
            for begin, end in parts:
                while own[place][1] + rounding < end:
                    place += 1
                assert own[place][0] - rounding <= begin, 'a part lies within its reduction'
    # No rank completes a reduction before the last one has begun it.
    for same in zip(*reductions):
        assert min(end for _, end in same) + 1000 >= max(begin for begin, _ in same)


@pytest.mark.parametrize('victim', [0, 1, 2])
def test_a_killed_server_ends_the_computation(lab, victim):
    servers = [lab.server() for _ in range(3)]
    client = lab.start('llama-completion', ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 1_000_000, '-c', 256,
                                            '--context-shift', '--ignore-eos', '-t', 1, '-no-cnv', '--no-warmup',
                                            *lab.where(servers), *TENSOR], env={'GGML_RPC_RECONNECT_S': 3})
    eventually(lambda: len(client.out()) > 300, 'it generates')
    began = time.monotonic()
    servers[victim].kill()
    assert client.wait(60) > 0
    assert time.monotonic() - began < 30
    assert client.count(rf'RPC server {servers[victim].endpoint} is lost') == 1, client.log()
    left = [server for server in servers if server is not servers[victim]]
    assert text(lab, left).out == local_text(lab)


def test_a_stopped_server_is_named(lab):
    servers = [lab.server() for _ in range(2)]
    client = lab.start('llama-completion', ['llama-completion', '-m', MODEL, '-p', PROMPT, '-n', 1_000_000, '-c', 256,
                                            '--context-shift', '--ignore-eos', '-t', 1, '-no-cnv', '--no-warmup',
                                            *lab.where(servers), *TENSOR], env={'GGML_RPC_TIMEOUT_S': 4})
    eventually(lambda: len(client.out()) > 300, 'it generates')
    worker = min(servers[1].workers())
    os.kill(worker, signal.SIGSTOP)
    assert client.wait(30) > 0
    assert client.count(rf'rank 1 of the group sent nothing for 3 s \(.*rank 1: {servers[1].endpoint}\)') == 1, client.log()


def test_two_programs_at_once(lab):
    servers = [lab.server(), lab.server()]
    running = [lab.start('llama-completion', ['llama-completion', '-m', MODEL, *WORDS, *lab.where(order), *TENSOR])
               for order in (servers, servers[::-1], servers)]
    for program in running:
        assert lab.expect_exit(program, None, 0).out == local_text(lab)


def test_parallel_requests(lab):
    servers = [lab.server(), lab.server()]
    llama = lab.llama_server(servers, slots=3, more=TENSOR)
    wanted = llama.complete()
    for number in range(6):
        assert llama.complete() == wanted


# --- hostile clients --------------------------------------------------------------------------------------------------

ALLOC, DECLARE, WRITE, READ, INVITE, CONNECT, GROUP, REDUCE, LINK = 0, 64, 65, 66, 73, 74, 81, 82, 130


def peer_with_tensor(server, elements=64, kind=0):
    """A native session with a declared tensor in slot 1."""
    peer = stockwire.connect(server)
    peer.sendall(command(stockwire.HELLO, bytes(4) + b'CARAVAN1' + struct.pack('<IQ', 2, 0)))
    receive(peer, 36)
    peer.sendall(command(ALLOC, struct.pack('<IQ', 0, 4096)))
    handle, = struct.unpack_from('<Q', receive(peer, 24), 8)
    peer.sendall(command(DECLARE, struct.pack('<HI8QQ', 1, kind, elements, 1, 1, 1, 4, 4 * elements, 4 * elements, 4 * elements,
                                              handle)))
    return peer


@pytest.mark.parametrize('payload,why', [
    (struct.pack('<HBBH', 0, 0, 0, 9), 'a group of 0 ranks'),
    (struct.pack('<HBBH', 0, 1, 1, 9) + bytes(10), 'a group of 1 ranks'),
    (struct.pack('<HBBH', 0, 0, 2, 9) + bytes(10), 'a group of 2 ranks with 1 peers'),
    (struct.pack('<HBBH', 0, 0, 1, 0) + bytes(10), 'patience 0 s'),
    (struct.pack('<HBBH', 0, 0, 2, 9) + bytes(20), 'no unused link with rank 1'),
    (struct.pack('<HBBH', 0, 0, 2, 9) + bytes(10) + struct.pack('<QH', 77, 0), 'no unused link with rank 1'),
])
def test_impossible_groups_are_refused(lab, payload, why):
    server = lab.server()
    with peer_with_tensor(server) as peer:
        peer.sendall(command(GROUP, payload))
        kind, told = receive_reply(peer)
        assert kind == 3 and why in told.decode()
        peer.sendall(command(GROUP, struct.pack('<HBBH', 0, 0, 1, 9) + bytes(10)))
        assert receive_reply(peer) == (0, b'\1'), 'the session continues'


def test_failed_groups_and_their_links_are_freed(lab):
    """300 groups in sequence, of which 64 may exist, over 300 links, of which 256 may. Each but the last one fails."""
    servers = [lab.server(), lab.server()]
    with peer_with_tensor(servers[0]) as opening, peer_with_tensor(servers[1]) as accepting:
        def form(number):
            accepting.sendall(command(INVITE))
            token, = struct.unpack('<Q', receive_reply(accepting)[1])
            assert token, 'there is room for a link'
            opening.sendall(command(CONNECT, struct.pack('<HQ', number, token) + servers[1].endpoint.encode()))
            assert receive_reply(opening) == (0, b'\0')
            for rank, peer in enumerate((opening, accepting)):
                links = [bytes(10), bytes(10)]
                links[1 - rank] = struct.pack('<QH', token if rank else 0, 0 if rank else number)
                peer.sendall(command(GROUP, struct.pack('<HBBH', number, rank, 2, 9) + b''.join(links)))
                assert receive_reply(peer) == (0, b'\1')

        def reduce(group, *slots):
            for peer, slot in zip((opening, accepting), slots):
                peer.sendall(command(REDUCE, struct.pack('<HHBH', group, 0, 0, slot)))

        for peer in (opening, accepting):
            first_buffer = 1 << 48
            peer.sendall(command(DECLARE, struct.pack('<HI8QQ', 2, 0, 32, 1, 1, 1, 4, 128, 128, 128, first_buffer)))
        for number in range(300):
            form(number)
            reduce(number, 1, 2)  # of different sizes
            for peer in (opening, accepting):
                kind, why = receive_reply(peer)
                assert kind == 2 and b'of the group' in why
        form(300)
        for old in (0, 299):
            reduce(old, 1, 1)
            for peer in (opening, accepting):
                kind, why = receive_reply(peer)
                assert kind == 2 and b'it was freed' in why, 'it fails like a launch'
        form(301)
        for peer in (opening, accepting):
            peer.sendall(command(WRITE, struct.pack('<HBQ', 1, 0, 0) + struct.pack('<f', 1.5) * 64))
        reduce(301, 1, 1)
        for peer in (opening, accepting):
            peer.sendall(command(READ, struct.pack('<HQQ', 1, 0, 256)))
            assert receive_reply(peer) == (0, struct.pack('<f', 3) * 64)


@pytest.mark.parametrize('request_,kind,elements', [
    (struct.pack('<HHBH', 9, 0, 0, 1), 0, 64),     # no such group
    (struct.pack('<HHBH', 0, 0, 0, 2), 0, 64),     # slot 2 is not declared
    (struct.pack('<HHBH', 0, 0, 2, 1), 0, 64),  # no such precision
    (struct.pack('<HHBH', 0, 0, 0, 1), 1, 64),     # f16
    (struct.pack('<HHBH', 0, 0, 0, 1), 0, 10_000), # not within its buffer
])
def test_impossible_sums_end_the_session(lab, request_, kind, elements):
    server = lab.server()
    with peer_with_tensor(server, elements, kind) as peer:
        peer.sendall(command(GROUP, struct.pack('<HBBH', 0, 0, 1, 9) + bytes(10)))
        assert receive_reply(peer) == (0, b'\1')
        peer.sendall(command(REDUCE, request_))
        assert receive_reply(peer)[0] == 1 and is_dropped(peer)
    assert server.running()


def test_a_session_that_waits_for_the_others_ends_with_its_client(lab):
    server = lab.server()
    peer = peer_with_tensor(server)
    peer.sendall(command(INVITE))
    _, token = receive_reply(peer)
    link = stockwire.connect(server)
    link.sendall(command(stockwire.HELLO, bytes(4) + b'CARAVAN1' + struct.pack('<I', 2) + token) + command(LINK))
    receive(link, 36 + 9)
    peer.sendall(command(GROUP, struct.pack('<HBBH', 0, 0, 2, 9) + bytes(10) + token + bytes(2)))
    assert receive_reply(peer) == (0, b'\1')
    peer.sendall(command(REDUCE, struct.pack('<HHBH', 0, 0, 0, 1)))
    time.sleep(0.5)
    peer.close()
    server.wait_for('Client connection closed', timeout=10)
    link.close()
