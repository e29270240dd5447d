#!/usr/bin/env python3
"""Regenerates fuzz/corpus from real runs: an rpc-server, and clients behind a proxy that records both directions.

    ./dev build && ./dev run python3 fuzz/record.py

The clients are ggml's plug-in and Caravan's, in both dialects, with a tiny model and with ggml's test-backend-ops, one op
per input. Long payloads are truncated to keep seeds small. Seeds named regression-* reproduce faults that were found; they
are kept.
"""
import contextlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from hashlib import sha1
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests' / 'e2e'))
from system import MAKE_MODELS, RPC_SERVER, TEST_BACKEND_OPS, before_exec, environment  # noqa: E402

CORPUS = ROOT / 'fuzz' / 'corpus'
HELLO, ALLOC_BUFFER, SET_TENSOR, GRAPH_COMPUTE, SET_TENSOR_2D = 14, 0, 6, 10, 18
GET_TENSOR, INIT_TENSOR, GET_ALLOC_SIZE = 8, 12, 13
WRITE, READ, GRAPH, SUPPORTS = 65, 66, 69, 71
NO_BASE = 0xffff
# Bytes.
MAX_DATA = 32             # of data in a write command
MAX_BUFFER = 1 << 20      # the limit of the targets' device
MAX_RECORDING = 512 << 10
MAX_SEED = 5 * 1024
MAX_MODEL_SEED = 24 * 1024

# Regular expressions for cases with small buffers, for ops whose first cases have large ones.
CASES = {'MUL_MAT': 'type_a=(f32|q8_0),type_b=f32,m=16,n=1,k=256', 'MUL_MAT_ID': 'n_mats=4,n_used=1,b=0,m=512,n=1,k=256',
         'GET_ROWS': 'n=256,m=5,r=4', 'FLASH_ATTN_EXT': 'hsk=64,hsv=64,nh=4,nr23=.1,1.,kv=113,nb=1,',
         'SSM_SCAN': 'd_state=16,', 'GATED_DELTA_NET': 'head_count=4', 'UPSCALE': 'ne=.2,', 'PAD': 'ne_a=.(1|5|11|33),',
         'RWKV_WKV6': 'n_seq_tokens=1,', 'RWKV_WKV7': 'n_seq_tokens=1,', 'GATED_LINEAR_ATTN': 'n_seq_tokens=1,',
         'IM2COL': 'ne_input=.(10|12|20),'}
# The maximum number of commands per seed, for commands that come in long sequences.
OF_EACH = {SET_TENSOR: 6, WRITE: 6, GET_TENSOR: 3, READ: 6, INIT_TENSOR: 2, GET_ALLOC_SIZE: 1, SUPPORTS: 3, SET_TENSOR_2D: 2}

OPS = ('ADD ADD_ID MUL SUB DIV SCALE SQR SQRT LOG SIN COS CLAMP REPEAT CONCAT NORM RMS_NORM L2_NORM GROUP_NORM MUL_MAT '
       'MUL_MAT_ID OUT_PROD CPY CONT DUP RESHAPE VIEW PERMUTE TRANSPOSE GET_ROWS SET_ROWS SET ACC DIAG DIAG_MASK_INF '
       'SOFT_MAX ROPE CONV_TRANSPOSE_1D CONV_2D CONV_2D_DW CONV_3D CONV_TRANSPOSE_2D IM2COL POOL_2D UPSCALE PAD '
       'PAD_REFLECT_1D ROLL ARANGE TIMESTEP_EMBEDDING ARGSORT TOP_K LEAKY_RELU FLASH_ATTN_EXT SSM_CONV SSM_SCAN '
       'RWKV_WKV6 RWKV_WKV7 GATED_LINEAR_ATTN GATED_DELTA_NET SILU GELU RELU REGLU SWIGLU GEGLU_QUICK SUM SUM_ROWS MEAN '
       'CUMSUM ARGMAX COUNT_EQUAL ADD1 TRI FILL SOLVE_TRI CROSS_ENTROPY_LOSS OPT_STEP_ADAMW OPT_STEP_SGD SOFTCAP '
       'RMS_NORM_BACK SOFT_MAX_BACK').split()


class Proxy:
    """Forwards connections to a server, and records both directions of each."""

    def __init__(self, server_port):
        self.server_port = server_port
        self.connections = []  # [client's bytes, server's bytes]
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.endpoint = f'127.0.0.1:{self.listener.getsockname()[1]}'
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(('127.0.0.1', self.server_port))
            recorded = [bytearray(), bytearray()]
            self.connections.append(recorded)
            for source, target, kept in ((client, server, recorded[0]), (server, client, recorded[1])):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pass_on, args=(source, target, kept), daemon=True).start()

    @staticmethod
    def pass_on(source, target, kept):
        try:
            while data := source.recv(1 << 16):
                kept += data
                target.sendall(data)
        except OSError:
            pass  # the process may have been killed
        finally:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


def messages(data):
    """Yields (command, payload) of each complete request."""
    at = 0
    while at + 9 <= len(data):
        command, size = struct.unpack_from('<BQ', data, at)
        if at + 9 + size > len(data):
            return
        yield command, bytes(data[at + 9:at + 9 + size])
        at += 9 + size


def framed(command, payload):
    return struct.pack('<BQ', command, len(payload)) + payload


def replies(data):
    """Yields the payload of each reply."""
    at = 0
    while at + 8 <= len(data):
        size = struct.unpack_from('<Q', data, at)[0] & ((1 << 56) - 1)
        yield bytes(data[at + 8:at + 8 + size])
        at += 8 + size


def session(data, most):
    """Returns the requests after HELLO, truncated to seed size, up to the first allocation beyond MAX_BUFFER. None if they
    contain no graph."""
    out = b''
    count = Counter()
    for command, payload in messages(data):
        fixed = {SET_TENSOR: 305, WRITE: 11}.get(command)
        if fixed is not None:
            payload = payload[:fixed + MAX_DATA]
        count[command] += 1
        if command == HELLO or count[command] > OF_EACH.get(command, 1000) or len(payload) > MAX_SEED:
            continue
        if command == ALLOC_BUFFER and struct.unpack_from('<Q', payload, 4)[0] > MAX_BUFFER:
            break
        if len(out) + 9 + len(payload) > most:
            break
        out += framed(command, payload)
    return out if count[GRAPH_COMPUTE] + count[GRAPH] > 0 else None


def save(target, data):
    if data:
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha1(data).hexdigest()[:16]).write_bytes(data)


def run(argv, env, ours, proxy):
    """Runs the program until it exits, 1.5 s have passed, or it has sent more than MAX_RECORDING."""
    process = subprocess.Popen([str(word) for word in argv], env=environment(ours, env), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=before_exec)
    deadline = time.monotonic() + 1.5
    while process.poll() is None:
        if time.monotonic() > deadline or any(len(client) > MAX_RECORDING for client, _ in proxy.connections):
            process.kill()
        time.sleep(0.02)


def save_graphs(client):
    """Saves payloads of GRAPH_COMPUTE, and native graphs: each without a base, together with the next one."""
    first = None
    kept = 0
    for command, payload in messages(client):
        if command == GRAPH_COMPUTE and len(payload) <= MAX_SEED:
            save('stock_graph', payload)
            kept += 1
        if command == GRAPH:
            device, slot, base, count = struct.unpack_from('<IHHI', payload)
            if base == NO_BASE:
                first = struct.pack('<II', count, len(payload) - 12) + payload[12:]
                save('native_graph', first + struct.pack('<I', count))  # the same graph again
                save('warm_graphs', struct.pack('<I', device) + first)
            elif first is not None:
                save('native_graph', first + struct.pack('<I', count) + payload[12:])
                first = None
            kept += 1
        if kept >= 2:
            return


def save_replies(recorded):
    """Saves the server's bytes, for the targets that attack clients."""
    client, server = recorded
    commands = [command for command, _ in messages(client)]
    if len(server) > 4 * 1024:
        return
    save('client', bytes(server))
    if set(commands) <= {HELLO, 1, 2, 11, 15, 131}:
        save('reach', bytes(server))
    sizes = [len(payload) for payload in replies(server)][:15]
    if all(size <= 510 and size % 2 == 0 for size in sizes):
        save('stream', bytes([len(sizes), *(size // 2 for size in sizes)]) + bytes(server))


def record(server_port, argv, env, ours, target, most):
    """Saves the longest session of a run as a seed of `target`, and short connections as seeds of the front door."""
    proxy = Proxy(server_port)
    endpoint = proxy.endpoint
    env = {**env, 'GGML_RPC_TRANSPORT': 'tcp'}
    if '--rpc' not in argv:
        env['GGML_RPC_SERVERS'] = endpoint
    run([endpoint if word == 'ENDPOINT' else word for word in argv], env, ours, proxy)
    seeds = []
    for recorded in proxy.connections:
        if len(recorded[0]) < 1000:
            save('front_door', bytes(recorded[0]))
        save_replies(recorded)
        save_graphs(recorded[0])
        if seed := session(recorded[0], most):
            seeds.append(seed)
    if seeds:
        save(target, max(seeds, key=len))
    return bool(seeds)


def save_synthetic():
    """Saves inputs that no run produces, or that are easier to write than to record."""
    for text in ('localhost', '192.168.1.45:50052', '[::1]:50052', '::1', '[fe80::1%eth0]:1', 'unix:/tmp/x', 'host:0'):
        save('endpoint', text.encode())
    link = framed(130, b'')
    for number, size in enumerate((0, 16, 32, 48, 0)):
        link += struct.pack('<QQ', number, size) + bytes(size)
    save('link', link)
    def sums(sizes):  # four elements; a message of each size in turn
        return b''.join(struct.pack('<QQB', number, size, number != 1) + b'\x3f' * size for number, size in enumerate(sizes))
    two, three, doubling, scatter, measured, rounded, bare = 0, 1, 2, 4, 6, 8, 128
    save('reduction', bytes([two, 3, 255]) + sums([16] * 3))
    save('reduction', bytes([three, 3, 127]) + sums([16] * 2) * 2)
    save('reduction', bytes([three + doubling, 3, 127]) + sums([16] * 4) * 2)
    save('reduction', bytes([three + scatter, 3, 127]) + sums([16, 0, 16, 0]) * 2)
    save('reduction', bytes([two + rounded, 3, 255]) + sums([8] * 3))
    save('reduction', bytes([three + measured + rounded, 3, 127]) + sums([8192, 8192]) * 2)
    save('reduction', bytes([bare, 3, 255]) + b'\x3f' * 80)
    save('reduction', bytes([bare + rounded, 3, 255]) + b'\x3f' * 20)
    def write(place, data):  # as in memory_link.cc: 16 and 17 are the rings, 2 and 4 the positions of their senders
        return struct.pack('<HB', place, len(data)) + data
    for opened in (0, 1):  # three sums of one float each, through the ring of the other end
        message, ring = b'', 1 if opened else 0
        steps = b''
        for number in range(3):
            message += struct.pack('<QQBf', number, 4, 1, 2.0)
            steps += write(16 + ring, message) + write(2 + 2 * ring, struct.pack('<Q', len(message))) + write(3 - ring, b'') * 2
        save('memory_link', bytes([opened]) + steps)
        save('memory_link', bytes([opened]) + steps + write(2 + 2 * ring, b'\xff' * 8))
    digest = f'0 4096 00000000000000ff {"5a" * 32}\n'
    save('digest_file', f'caravan-digests 1\n/models/a.gguf\n7 100000 1700000000000000000\n{digest}end\n'.encode())
    text = (b'{"n_prompt":8,"n_gen":0,"n_depth":2,"samples_ns":[1000,2000],"model_type":"llama","model_size":5,'
            b'"model_n_params":6,"cpu_info":"c","gpu_info":"g","build_commit":"b","build_number":1}')
    save('llama_bench', b'[' + text + b']')
    save('gguf', tiny_gguf())
    ring = struct.pack('<II16sHBBIII', 2, 2, bytes(16), 0, 0, 0, 1024, 1024, 12)
    for length, credits in ((5, 0), (900, 1), (0, 2), (1, 1), (64, 3)):
        ring += struct.pack('<HBII', 8 + length, 0, credits, 0) + bytes(length)
    save('ring', ring)
    # Over three queue pairs (traffic class 2): every second data message overtakes the one before it.
    rails = struct.pack('<II16sHBBIII', 2, 2, bytes(16), 0, 0, 2, 1024, 1024, 12)
    for i in range(30):
        rails += struct.pack('<HBHHI', 9 + i, (i % 3) << 1 | (i & 1) << 3, 0, 0, 0) + bytes(1 + i)
    save('ring', rails)
    # An all-reduce by a group of one rank: ALLOC_BUFFER, DECLARE, GROUP, REDUCE, ALGORITHM.
    reduced = framed(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096))
    reduced += framed(64, struct.pack('<HI9Q', 0, 0, 64, 1, 1, 1, 4, 256, 256, 256, 1 << 48))
    reduced += framed(81, struct.pack('<HBBH', 0, 0, 1, 9) + bytes(10)) + framed(82, struct.pack('<HHBH', 0, 0, 0, 0))
    save('native_session', reduced)
    save('native_session', reduced + framed(84, struct.pack('<HQ', 0, 4096)))
    # A comm of a stock client: ALLOC_BUFFER, COMM_INIT, two COMM_ALLREDUCE, COMM_FREE.
    tensor = struct.pack('<QIQ8II', 1, 0, 1 << 48, 64, 1, 1, 1, 4, 256, 256, 256, 0) + bytes(164)
    tensor += struct.pack('<Q', 1 << 48) + bytes(68)
    comm = framed(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)) + framed(20, struct.pack('<4I64s', 0, 0, 2, 51052, b''))
    comm += framed(21, bytes(4) + tensor) * 2 + framed(22, bytes(4))
    save('stock_session', comm)
    # Errors instead of replies, as in the native dialect.
    hello = struct.pack('<QBBBB', 28, 8, 0, 0, 0) + bytes(4) + b'CARAVAN1' + struct.pack('<IQ', 2, 0)
    for kind in (1, 2, 3):
        error = struct.pack('<Q', kind << 56 | 3) + b'why'
        save('client', hello + error + struct.pack('<QI', 4, 1))
        save('stream', bytes([2, 2, 2]) + error + struct.pack('<QI', 4, 1) * 2)


def tiny_gguf():
    """A GGUF file with values of every size, and two tensors."""
    def text(value):
        return struct.pack('<Q', len(value)) + value

    values = [(b'u8', 0, b'1'), (b'u16', 2, b'12'), (b'general.alignment', 4, struct.pack('<I', 32)),
              (b'f64', 12, bytes(8)), (b'name', 8, text(b'a')), (b'strings', 9, struct.pack('<IQ', 8, 2) + text(b'') * 2),
              (b'numbers', 9, struct.pack('<IQ', 4, 2) + bytes(8))]
    out = b'GGUF' + struct.pack('<IQQ', 3, 2, len(values))
    for name, kind, value in values:
        out += text(name) + struct.pack('<I', kind) + value
    out += text(b'a') + struct.pack('<IQIQ', 1, 8, 0, 0)
    out += text(b'b') + struct.pack('<IQQIQ', 2, 32, 2, 8, 32)
    out += bytes(-len(out) % 32)
    return out + bytes(32 + 68)


def main():
    kept = {path: path.read_bytes() for path in CORPUS.glob('*/regression-*')}
    shutil.rmtree(CORPUS, ignore_errors=True)
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    save_synthetic()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / 'tiny.gguf'
        subprocess.run([sys.executable, str(MAKE_MODELS), '--bench', '--out', str(model), '--layers', '1', '--d', '32',
                        '--heads', '2', '--ff', '64', '--vocab', '300', '--ctx', '64', '--type', 'f32'], check=True)
        log = Path(folder) / 'server.log'
        with open(log, 'wb') as out:
            server = subprocess.Popen([str(RPC_SERVER), '-H', '127.0.0.1', '-p', '0', '-t', '1'], stdout=out, stderr=out,
                                      env=environment(True, tool=False), preexec_fn=before_exec)
        try:
            while b'endpoint       : ' not in log.read_bytes():
                if server.poll() is not None:
                    sys.exit('rpc-server did not start:\n' + log.read_text())
                time.sleep(0.02)
            port = int(log.read_text().partition('endpoint       : ')[2].split()[0].rpartition(':')[2])
            bench = ['llama-bench', '-m', model, '--rpc', 'ENDPOINT', '-ngl', '99', '-p', '4', '-n', '2', '-r', '1', '-t', '1']
            record(port, bench, {}, False, 'stock_session', MAX_MODEL_SEED)
            record(port, bench, {}, True, 'native_session', MAX_MODEL_SEED)
            missing = []
            for op in OPS:
                test = [TEST_BACKEND_OPS, 'test', '-b', 'RPC0', '-o', op, '-p', CASES.get(op, '.')]
                for dialect in ('stock', 'native'):
                    env = {'GGML_RPC_DIALECT': dialect} if dialect == 'stock' else {}
                    if not record(port, test, env, True, f'{dialect}_session', MAX_SEED):
                        missing.append(f'{op} ({dialect})')
            print('no seed for:', ', '.join(missing) or 'none')
        finally:
            server.terminate()
            server.wait()
    for folder in sorted(CORPUS.iterdir()):
        sizes = [path.stat().st_size for path in folder.iterdir()]
        print(f'{folder.name:18} {len(sizes):4} seeds {sum(sizes):8} bytes')


if __name__ == '__main__':
    main()
