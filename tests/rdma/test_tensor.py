"""Tensor parallelism over RDMA: one server in each machine, linked over RDMA."""
from conftest import BIN, MODEL, PORT, not_emulated

pytestmark = not_emulated
WORDS = f"-m {MODEL} -p 'In the beginning God' -n 40 --temp 0 -no-cnv -t 1 --no-warmup --no-display-prompt -lv 4"


def test_text_is_the_local_one(rig):
    rig.server()
    second = rig.client_machine.start(f'exec {BIN}/rpc-server -H 0.0.0.0 -p {PORT} -t 1')
    second.wait_for('sessions ')

    def text(where, env=None):
        file = rig.pair.shared / 'text'
        code, output = rig.client_machine.run(f'/usr/bin/llama-completion {WORDS} {where} 2>&1 >{file}', timeout=120, env=env)
        assert code == 0, output
        return file.read_text(), output
    wanted, _ = text('-ngl 0 --device none')
    before = rig.client_machine.counters()['rdma_sends']
    got, log = text(f'-ngl 99 --rpc 10.77.0.1:{PORT},10.77.0.2:{PORT} -sm tensor -fa on -fit off', rig.environment())
    second.kill()
    assert got == wanted
    assert 'direct all-reduce over ' in log  # the links may switch to RDMA after their first use
    # The launches of a token, and two sums for each of 6 layers.
    assert rig.client_machine.counters()['rdma_sends'] - before > 40 * 12
