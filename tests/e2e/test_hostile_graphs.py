"""Invalid graphs sent to a server. Each ends its own session, with the reason in the server's log. No worker dies of a signal,
and other sessions are not affected."""
import struct

import pytest

from harness import local_logits, same
from stockwire import answer, command, greet, is_dropped, receive

ALLOC_BUFFER, BUFFER_GET_BASE, SET_TENSOR, GET_TENSOR, GRAPH_COMPUTE = 0, 3, 6, 8, 10
F32, F16, Q4_2, I32 = 0, 1, 4, 26
F32_ONE = 0x3f800000
COMPUTE = 16  # a tensor's flag
SIZE = 1 << 20
# ggml's op numbers
DUP, ADD, ACC, CONCAT, MUL_MAT, MUL_MAT_ID, SET = 1, 2, 5, 22, 29, 30, 33
GET_ROWS, GET_ROWS_BACK, SET_ROWS, ROPE, POOL_2D, UPSCALE, PAD_REFLECT_1D = 40, 41, 42, 48, 61, 63, 65
FLASH_ATTN_EXT, SSM_SCAN, GATED_DELTA_NET, CUSTOM = 74, 77, 86, 95
WIN_PART, RWKV_WKV7, GLU, UNARY = 78, 84, 100, 91


class Session:
    """A session with one buffer, whose tensors are 4 KiB apart."""

    def __init__(self, server):
        self.peer = greet(server)
        self.peer.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, SIZE)))
        self.buffer, = struct.unpack_from('<Q', receive(self.peer, 24), 8)
        self.peer.sendall(command(BUFFER_GET_BASE, struct.pack('<Q', self.buffer)))
        self.base, = struct.unpack_from('<Q', receive(self.peer, 16), 8)
        self.tensors, self.next = [], 0

    def tensor(self, type_, ne, op=0, sources=(), params=()):
        ne = [*ne, 1, 1, 1][:4]
        size = {F32: 4, F16: 2, I32: 4}.get(type_, 18)
        strides = [size, size * ne[0], size * ne[0] * ne[1], size * ne[0] * ne[1] * ne[2]]
        src = [*(source['id'] for source in sources)] + [0] * (10 - len(sources))
        number = len(self.tensors) + 1
        packed = struct.pack('<QIQ4I4II', number, type_, self.buffer, *ne, *strides, op)
        packed += struct.pack('<16I', *[value & 0xffffffff for value in params], *[0] * (16 - len(params)))
        packed += struct.pack('<i10QQQQ64si', COMPUTE if op else 0, *src, 0, 0, self.base + self.next, b'', 0)
        self.next += 4096
        self.tensors.append(packed)
        return {'id': number, 'wire': packed}

    def write(self, tensor, data):
        self.peer.sendall(command(SET_TENSOR, tensor['wire'] + struct.pack('<BQ', 0, 0) + data))

    def compute(self, *nodes):
        ids = [node['id'] for node in nodes]
        self.peer.sendall(command(GRAPH_COMPUTE, struct.pack(f'<IQI{len(ids)}Q', 0, 0, len(ids), *ids) +
                                  struct.pack('<I', len(self.tensors)) + b''.join(self.tensors)))

    def read(self, tensor, size):
        self.peer.sendall(command(GET_TENSOR, tensor['wire'] + struct.pack('<QQ', 0, size)))
        return receive(self.peer, 8 + size)


def rows(op, result, table=(4, 8), index=(3,)):
    def build(session):
        return session.tensor(F32, result, op, [session.tensor(F32, table), session.tensor(I32, index)])
    return build


def node(op, result, *sources, params=(), type_=F32):
    """A node. Sources are shapes of f32 tensors, or pairs of a type and a shape."""
    def build(session):
        made = [session.tensor(*(source if isinstance(source[-1], tuple) else (F32, source))) for source in sources]
        return session.tensor(type_, result, op, made, params)
    return build


def with_indices(op, values):
    """A node with 8 rows and an index tensor with the given row numbers."""
    def build(session):
        table = session.tensor(F32, (4, 8))
        index = session.tensor(I32, (len(values),))
        session.write(index, struct.pack(f'<{len(values)}i', *values))
        if op == SET_ROWS:
            return session.tensor(F32, (4, 8), op, [session.tensor(F32, (4, len(values))), index, table])
        if op == GET_ROWS_BACK:
            return session.tensor(F32, (4, 8), op, [session.tensor(F32, (4, len(values))), index])
        return session.tensor(F32, (4, len(values)), op, [table, index])
    return build


def unknown_expert(session):
    ids = session.tensor(I32, (2,))
    session.write(ids, struct.pack('<2i', 0, -7))
    return session.tensor(F32, (8, 2), MUL_MAT_ID, [session.tensor(F32, (32, 8, 2)), session.tensor(F32, (32, 1)), ids])


def state_of_another_sequence(session):
    index = session.tensor(I32, (1,))
    session.write(index, struct.pack('<i', 1 << 20))
    sources = [session.tensor(F32, ne) for ne in [(16, 8, 2, 1), (8, 2, 4, 1), (2, 4), (1, 2), (16, 1, 4), (16, 1, 4)]]
    return session.tensor(F32, (64 + 256,), SSM_SCAN, [*sources, index], [1])


DELTA_NET = [(16, 4, 4, 1)] * 3 + [(1, 4, 4, 1)] * 2 + [(16, 16, 4, 1)]

ATTACKS = {
    'sum of other shapes': (node(ADD, (64,), (4,), (4,)), 'wrong shape'),
    'sum that does not broadcast': (node(ADD, (8,), (8,), (3,)), 'do not match'),
    'GET_ROWS, more rows than indices': (rows(GET_ROWS, (4, 100)), 'wrong shape'),
    'GET_ROWS, longer rows': (rows(GET_ROWS, (400, 3)), 'wrong shape'),
    'GET_ROWS, indices of more planes': (rows(GET_ROWS, (4, 3, 5), index=(3, 5)), 'do not match'),
    'GET_ROWS, row 8 of 8': (with_indices(GET_ROWS, [0, 8]), 'row numbers out of range'),
    'GET_ROWS, row -1': (with_indices(GET_ROWS, [-1]), 'row numbers out of range'),
    'SET_ROWS, row 2^30': (with_indices(SET_ROWS, [1 << 30]), 'row numbers out of range'),
    'SET_ROWS, row -2^31': (with_indices(SET_ROWS, [-1 << 31]), 'row numbers out of range'),
    'GET_ROWS_BACK, row 2^20': (with_indices(GET_ROWS_BACK, [1 << 20]), 'row numbers out of range'),
    'MUL_MAT_ID, expert -7': (unknown_expert, 'row numbers out of range'),
    'SSM_SCAN, state 2^20': (state_of_another_sequence, 'row numbers out of range'),
    'GATED_DELTA_NET, K of 1000': (node(GATED_DELTA_NET, (64, 4 + 16), *DELTA_NET, params=[1000]), 'wrong shape'),
    'GATED_DELTA_NET, K of 0': (node(GATED_DELTA_NET, (64, 4), *DELTA_NET, params=[0]), 'parameter'),
    'PAD_REFLECT_1D beyond the row': (node(PAD_REFLECT_1D, (4 + 100,), (4,), params=[50, 50]), 'parameter'),
    'PAD_REFLECT_1D negative': (node(PAD_REFLECT_1D, (4,), (4,), params=[-50, 50]), 'parameter'),
    'ACC with a negative stride': (node(ACC, (8, 8), (8, 8), (4, 4), params=[-32, 256, 256, 128]), 'parameter'),
    'ACC with a negative offset': (node(ACC, (8, 8), (8, 8), (4,), params=[32, 256, 256, -64]), 'parameter'),
    'SET beyond the end': (node(SET, (8, 8), (8, 8), (4,), params=[32, 256, 256, 252]), 'parameter'),
    'MUL_MAT of other rows': (node(MUL_MAT, (6, 4), (8, 6), (80, 4)), 'do not match'),
    'MUL_MAT, transform of a matrix that is not square':
        (node(MUL_MAT, (6, 4), (8, 6), (8, 4), params=[0, 1]), 'do not match'),
    'CONCAT along dimension 4': (node(CONCAT, (8,), (4,), (4,), params=[4]), 'parameter'),
    'ROPE of too many dimensions': (node(ROPE, (8, 2, 3), (8, 2, 3), (I32, (3,)), params=[0, 64]), 'parameter'),
    'ROPE with few positions': (node(ROPE, (8, 2, 3), (8, 2, 3), (I32, (1,)), params=[0, 8]), 'positions'),
    'POOL_2D of 0 x 0': (node(POOL_2D, (8, 8), (8, 8), params=[0, 0, 0, 1, 1]), 'parameter'),
    'UPSCALE of an empty tensor': (node(UPSCALE, (8,), (0,)), 'do not match'),
    'WIN_PART of size 0': (node(WIN_PART, (8, 4, 4, 9), (8, 10, 9), params=[3, 3, 0]), 'parameter'),
    'FLASH_ATTN_EXT, fewer values than keys':
        (node(FLASH_ATTN_EXT, (64, 4, 3), (64, 3, 4), (F16, (64, 32, 2)), (F16, (64, 1, 2)), params=[F32_ONE]),
         'do not match'),
    'RWKV_WKV7, more sequences than tokens':
        (node(RWKV_WKV7, (32, 2 + 48), *[(16, 2, 2)] * 6, (512, 3)), 'do not match'),
    'unknown UNARY': (node(UNARY, (4,), (4,), params=[1000]), 'parameter'),
    'unknown GLU': (node(GLU, (4,), (8,), params=[-1]), 'parameter'),
    'a removed type': (node(ADD, (4,), (Q4_2, (32,)), (4,)), 'no longer supported'),
    'an op with a function pointer': (node(CUSTOM, (4,), (4,), params=[0xdeadbeef, 0xdeadbeef, 1]), 'CUSTOM'),
    'an unknown op': (node(9999, (4,), (4,)), 'op 9999'),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_refused_with_a_reason(lab, attack):
    build, reason = ATTACKS[attack]
    server = lab.server()
    session = Session(server)
    with session.peer:
        session.compute(build(session))
        assert is_dropped(session.peer)
    server.wait_idle(20)
    assert server.count('died of') == 0
    assert server.count(reason) >= 1, server.log()
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]


def test_other_session_is_unaffected(lab):
    """All attacks against a server that computes for another client."""
    server = lab.server()
    finish = lab.start_logits([server])
    for build, _ in ATTACKS.values():
        session = Session(server)
        with session.peer:
            session.compute(build(session))
            assert is_dropped(session.peer)
    same(finish(), local_logits(lab))
    server.wait_idle(20)
    assert server.count('died of') == 0


def test_valid_graph_computes(lab):
    """The building blocks of the attacks work in a valid graph."""
    server = lab.server()
    session = Session(server)
    with session.peer:
        table, index = session.tensor(F32, (2, 3)), session.tensor(I32, (2,))
        result = session.tensor(F32, (2, 2), GET_ROWS, [table, index])
        session.write(table, struct.pack('<6f', 1, 2, 3, 4, 5, 6))
        session.write(index, struct.pack('<2i', 2, 0))
        session.compute(result)
        assert session.read(result, 16) == answer(struct.pack('<4f', 5, 6, 1, 2))
    server.wait_idle(20)
    assert server.count('died of') == 0


@pytest.mark.parametrize('op', [GET_ROWS, MUL_MAT_ID])
def test_computed_index_costs_own_worker_only(lab, op):
    """Only the kernel sees a computed index. At worst the session's own worker dies."""
    # The fault in ggml's kernel is intended, so AddressSanitizer must not report it.
    server = lab.server(env={'ASAN_OPTIONS': 'handle_segv=0'})
    session = Session(server)
    with session.peer:
        raw = session.tensor(I32, (2,))
        session.write(raw, struct.pack('<2i', 1 << 28, 1 << 28))
        index = session.tensor(I32, (2,), DUP, [raw])
        if op == GET_ROWS:
            result = session.tensor(F32, (4, 2), op, [session.tensor(F32, (4, 8)), index])
        else:
            experts, x = session.tensor(F32, (32, 8, 2)), session.tensor(F32, (32, 1))
            result = session.tensor(F32, (8, 2), op, [experts, x, index])
        session.compute(index, result)
        assert is_dropped(session.peer)
    server.wait_idle(20)
    assert server.count('other sessions are not affected') == 1
    assert lab.devices(server.endpoint)[0] == [('RPC0', server.endpoint)]
