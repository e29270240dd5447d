"""ggml's own operator tests, with a remote device in place of a local one: a part that takes seconds.

All of them, which takes long:  GGML_BACKEND_PATH=.../libggml-rpc-caravan.so GGML_RPC_SERVERS=HOST:PORT
                                /usr/libexec/*/ggml/test-backend-ops test -b RPC0
"""
import re

import pytest

from system import SANITIZE, TEST_BACKEND_OPS

# Operators, which of their cases (a regular expression), the least number of cases that must have been tested.
PARTS = [
    ('ADD,MUL,SUB,DIV', r'ne=.(16,5,4,3|10,5,4,3|10,5,1,1)', 50),
    ('MUL_MAT', r'type_a=(f32|f16|bf16|q8_0|q4_0|q4_K|q6_K|mxfp4),type_b=f32,m=16,n=(1|16),k=256', 50),
    ('MUL_MAT_ID', r'type_a=(f32|f16|q8_0|q4_0|q4_K),type_b=f32,n_mats=4,n_used=[12],b=[01],m=512,n=(1|4|5),k=256', 10),
    ('SOFT_MAX', r'ne=.(16|32),', 50),
    ('ROPE', r'ne_a=.128,(32|40),2,1..*ff=0', 40),
    ('GET_ROWS', r'type=(f32|f16|q8_0|i32),n=256,m=5,r=4,be1=[17],', 20),
    ('CPY', r'type_src=(f32|f16|q8_0|q4_0),type_dst=(f32|f16|q8_0|q4_0),ne_src=.256,(2|4),', 20),
    ('CONT', r'ne=.(2|3),', 20),
    ('SET_ROWS', r'type_dst=(f32|f16|q8_0|q4_0),.*ne=.256,(5|11),', 40),
    ('FLASH_ATTN_EXT', r'hsk=64,hsv=64,nh=4,nr23=.[14],1.,kv=113,nb=(1|3),mask=1,sinks=[01],max_bias=0', 20),
    ('CONCAT', r'type=(f32|i32),ne_a=.11,12,13,14.*v=[03]', 10),
    ('ARGSORT,TOP_K,SUM_ROWS,MEAN', r'ne=.[0-9]{1,3},', 40),
    ('RMS_NORM,NORM,L2_NORM,GROUP_NORM', '.', 50),
    ('SILU,GELU,RELU,TANH,SIGMOID', '.', 30),
    ('SSM_SCAN,GATED_DELTA_NET', 'n_seq_tokens=(1|4|32),n_seqs=(1|4)|head_count=4', 5),
]


def run(lab, endpoint, operators, cases, jobs=1):
    done = lab.run([TEST_BACKEND_OPS, 'test', '-b', 'RPC0', '-o', operators, '-p', cases, '-j', jobs],
                   env={'GGML_RPC_SERVERS': endpoint})
    passed, total = re.search(r'(\d+)/(\d+) tests passed', done.log).groups()
    assert passed == total, [line for line in done.log.splitlines() if 'FAIL' in line][:20]
    assert f'Backend RPC0[{endpoint}]: ' in done.log
    return int(total)


@pytest.mark.parametrize('operators,cases,least', PARTS[1:4] if SANITIZE else PARTS, ids=lambda value: str(value)[:20])
def test_operators(lab, operators, cases, least):
    server = lab.server()
    assert run(lab, server.endpoint, operators, cases) >= least
    assert server.served() >= least


def test_from_two_threads(lab):
    """Two threads of one process, each with back-ends and buffers of its own on the same device."""
    server = lab.server()
    operators, cases, least = PARTS[1]
    assert run(lab, server.endpoint, operators, cases, jobs=2) >= least


@pytest.mark.skipif(bool(SANITIZE), reason='sanitized, this is slow; the client is the same with another server')
def test_with_a_stock_server(lab):
    operators, cases, least = PARTS[0]
    assert run(lab, lab.stock_server().endpoint, operators, cases) >= least
