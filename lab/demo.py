"""./dev lab demo: unmodified llama.cpp in machine b generates text on machine a's processor, over RDMA."""
import os
import pathlib
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get('CARAVAN_BIN', ROOT / 'build' / 'bin'))
MODEL = ROOT / 'models' / 'scribe-5m-q8_0.gguf'
PROMPT = 'The old caravan'
TOKENS = 48
COMPLETION = (f'/usr/bin/llama-completion -m {MODEL} -p "{PROMPT}" -n {TOKENS} -t 1 --temp 0 --seed 1 -no-cnv '
              '--no-warmup --no-repack 2>/dev/null </dev/null')
SERVER_LINES = ('RDMA probed:', 'RDMA activated:')


def generate(machine, where):
    code, output = machine.run(f'{COMPLETION} {where}', timeout=120,
                               env={'GGML_BACKEND_PATH': f'{BIN}/libggml-rpc-caravan.so'})
    if code != 0:
        raise SystemExit(f'llama-completion ended with {code}: {output}')
    return output.strip()


def packets(machine):
    counters = machine.counters()
    return counters['sent_pkts'], counters['rcvd_pkts']


def main(pair):
    """Boots `pair`, runs the demo and returns the exit code."""
    if not (BIN / 'rpc-server').exists():
        print(f'lab: {BIN}/rpc-server does not exist: run ./dev build')
        return 3
    with pair as machines:
        print(f'Two machines ({machines.backend.name}) are running, each with a Soft-RoCE device rxe0.')
        server = machines.a.start(f'exec {BIN}/rpc-server -H 0.0.0.0 -p 50052 -t 1')
        server.wait_for('sessions ')
        local = generate(machines.b, '--device none')
        before, begin = packets(machines.b), time.monotonic()
        remote = generate(machines.b, f'-ngl 99 --rpc {machines.a.ip}:50052')
        seconds, after = time.monotonic() - begin, packets(machines.b)
        lines = [line for line in server.output().splitlines() if any(wanted in line for wanted in SERVER_LINES)][-2:]
    sent, received = (b - a for a, b in zip(before, after))
    is_equal, is_rdma = remote == local and remote != '', len(lines) >= 2 and sent > TOKENS
    print(f'\nllama-completion in b, on the processor of a ({TOKENS} tokens, {seconds:.1f} s including loading):\n')
    print(remote, end='\n\n')
    print('equal to the text that b generates without RPC:', 'yes' if is_equal else f'NO, that is:\n{local}')
    print('log of a\'s rpc-server:', *(lines or ['no line about RDMA']), sep='\n  ')
    print(f'b\'s rxe0 counted {sent} packets sent, {received} received.')
    return 0 if is_equal and is_rdma else 1
