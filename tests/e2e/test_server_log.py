"""The server's log: it makes nobody wait, forges nothing, is bounded, and says when."""
import fcntl
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from stockwire import HELLO, command, greet, is_dropped, receive
from system import BIN, MAKE_MODELS, PATIENCE, RPC_SERVER, environment, eventually

ALLOC_BUFFER = 0
STAMP = r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d '


class Unread:
    """A server whose output goes to a pipe of one page. Looks enough like a Server to be connected to."""

    def __init__(self, folder):
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        self.popen = subprocess.Popen([RPC_SERVER, '-p', '0', '-t', '1'], env=environment(True, tool=False), cwd=folder,
                                      stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
        os.close(writer)
        self.text = ''
        while '  sessions       : ' not in self.text:
            self.read()
        self.endpoint = re.search(r'  endpoint       : (\S+)\n', self.text).group(1)

    def read(self):
        piece = os.read(self.reader, 65536).decode()
        assert piece, 'it has ended'
        self.text += piece


@pytest.fixture
def unread(tmp_path):
    server = Unread(tmp_path)
    yield server
    server.popen.kill()
    server.popen.wait(20)


def serve_one(server):
    with greet(server) as client:
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
        receive(client, 24)


def test_a_log_that_nobody_reads_makes_nobody_wait(unread):
    for _ in range(60):  # about 180 bytes each
        serve_one(unread)
    while 'log lines were dropped: the log was not read' not in unread.text:
        unread.read()
        serve_one(unread)
    dropped = int(re.search(r'warning: (\d+) log lines were dropped', unread.text).group(1))
    assert dropped > 20
    assert len(unread.text) < 3 * 4096 + 20 * 200
    serve_one(unread)


def test_a_log_whose_reader_has_gone_makes_nobody_wait(unread):
    os.close(unread.reader)
    for _ in range(3):
        serve_one(unread)
    assert unread.popen.poll() is None


def test_a_file_name_forges_no_line(lab):
    models = lab.folder / 'models'
    models.mkdir()
    (models / 'a\x1b]0;owned\x07\nerror: forged \u202e.gguf').write_text('no model')
    server = lab.server('--model-dir', models, '--cache-dir', lab.folder / 'cache')
    server.wait_for('skipping .*forged ')
    log = server.log()
    assert not re.search(r'[\x00-\x09\x0b-\x1f\x7f\u202e]', log), log
    assert all(re.match(STAMP + 'warning: model-dir: ', line) for line in log.splitlines() if 'forged' in line)


def test_a_peer_forges_no_line(lab):
    server = lab.server()
    name = b'a\x1b[2J\nerror: forged'
    tensor = bytearray(296)
    struct.pack_into('<QI', tensor, 0, 1, 9999)  # a type that does not exist
    tensor[220:220 + len(name)] = name
    with greet(server) as client:
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
        receive(client, 24)
        client.sendall(command(10, struct.pack('<IQIQI', 0, 1, 1, 1, 1) + tensor))
        assert is_dropped(client)
    server.wait_for('Client connection closed')
    assert '\x1b' not in server.log() and '\nerror: forged' not in server.log()


def test_the_number_of_lines_is_bounded(lab):
    models = lab.folder / 'models'
    models.mkdir()
    for i in range(1500):
        (models / f'{i}.gguf').write_text('no model')
    server = lab.server('--model-dir', models, '--cache-dir', lab.folder / 'cache')
    server.wait_for(r'warning: \d+ log lines like the next were suppressed')
    eventually(lambda: len(server.workers()) == 1, 'all files are looked through')
    shown = server.count('model-dir: skipping ')
    suppressed = [int(number) for number in re.findall(r'(\d+) log lines? like the next w', server.log())]
    assert 500 <= shown < 1000 and shown + sum(suppressed) >= 1500


def test_one_address_does_not_use_up_the_log(lab):
    """It begins sessions that log as much as they may. Another one's warnings appear all the same."""
    server = lab.server()
    host, port = server.endpoint.rsplit(':', 1)

    def refusals(source, count):
        with socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0)) as peer:
            peer.sendall(command(HELLO, bytes(24)) + command(ALLOC_BUFFER, struct.pack('<IQ', 0, 1 << 46)) * count)
            answers = 36 + 24 * count
            assert len(peer.makefile('rb').read(answers)) == answers

    sessions = 15
    for _ in range(sessions):
        refusals('127.0.0.1', 120)
    refusals('127.0.0.2', 3)
    server.wait_for(rf'Client connection closed \(session {sessions + 1}\)')
    assert server.count(rf'ALLOC_BUFFER refused.*\(session {sessions + 1}\)') == 3
    assert server.count('ALLOC_BUFFER refused') < 1000


def test_lines_have_timestamps(lab):
    server = lab.server()
    serve_one(server)
    server.wait_idle()
    events = [line for line in server.out().splitlines() if 'lient connection' in line]
    assert len(events) == 2 and all(re.match(STAMP, line) for line in events), events


def test_journald_adds_its_own_timestamps(lab):
    server = lab.start('rpc-server', ['sh', '-c', 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/$$/fd/2) exec "$0" "$@"', RPC_SERVER,
                                      '-H', '0.0.0.0', '-p', 0, '-t', 1], tool=False)
    server.wait_for('no authentication')
    assert server.err().startswith('warning: ')


def test_a_missing_descriptor_is_not_taken_by_a_client(lab):
    """A socket with the number of stdout would get the log."""
    server = lab.start('rpc-server', ['sh', '-c', 'exec "$0" "$@" 0<&- 1>&- ', RPC_SERVER, '-p', 0, '-t', 1], tool=False)
    eventually(lambda: os.path.exists(f'/proc/{server.pid}/fd/5'), 'it has started')
    assert [os.readlink(f'/proc/{server.pid}/fd/{fd}') for fd in (0, 1)] == ['/dev/null'] * 2


def test_a_closing_line_says_what_the_session_did(lab):
    model, cache = lab.folder / 'big.gguf', lab.folder / 'cache'  # with tensors of more than 1 MiB
    subprocess.run([sys.executable, MAKE_MODELS, '--bench', '--out', model, '--layers', '1', '--d', '512', '--heads', '8',
                    '--ff', '4096', '--vocab', '8192', '--type', 'q8_0'], check=True, stdout=subprocess.DEVNULL,
                   timeout=PATIENCE)
    server = lab.server('-c', '--cache-dir', cache)
    for _ in range(2):
        lab.logits([server], model)
    server.wait_idle()
    lines = [line for line in server.out().splitlines() if 'weights: ' in line]
    assert len(lines) == 2, server.out()
    pattern = (r'; \d+\.\d s, \d+\.\d s computing \(\d+\.\d launches/s\); '
               r'weights: (\d+) MiB received, (\d+) MiB from the cache, 0 MiB from model files$')
    first, second = (tuple(int(number) for number in re.search(pattern, line).groups()) for line in lines)
    assert first[0] > 0 and first[1] == 0 and second[0] == 0 and second[1] > 0


def test_what_measures_a_network_path_is_not_called_weights(lab):
    server = lab.server()
    lab.run([BIN / 'rpc-bench', '--rpc', server.endpoint, '--rounds', 1, '--time', 1], tool=False, timeout=120)
    server.wait_idle()
    assert re.search(r'[1-9]\d* MiB in', server.out()) and 'weights' not in server.out()


def threads_sleep(pid):
    states = [file.read_text().rsplit(')', 1)[1].split()[0] for file in pathlib.Path(f'/proc/{pid}/task').glob('*/stat')]
    return all(state == 'S' for state in states)


def test_a_stop_leaves_a_trace(lab):
    server = lab.server()
    with greet(server) as client:
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
        receive(client, 24)
        serving = min(server.workers())
        eventually(lambda: threads_sleep(serving), 'the worker waits for the next command')
        os.kill(serving, signal.SIGSTOP)
        server.wait_for(rf'warning: worker process {serving} \(session 1 with \S+\) was stopped by a signal')
        time.sleep(10.5)
        os.kill(serving, signal.SIGCONT)
        os.kill(serving, signal.SIGCONT)  # tells nothing: it runs
        os.kill(server.pid, signal.SIGCONT)
        server.wait_for(rf'warning: worker process {serving} .* goes on after a stop of 1\d\.\d s')
        client.sendall(command(ALLOC_BUFFER, struct.pack('<IQ', 0, 4096)))
        server.wait_for(r'the client sent no command for 1\d\.\d s \(session 1\)')
    server.wait_idle()
    assert server.count('warning') == 2


def test_a_stop_of_the_main_process_leaves_a_trace(lab):
    server = lab.server()
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(9)  # more than its heartbeat and what counts as late
    os.kill(server.pid, signal.SIGCONT)
    server.wait_for(r"warning: the server's main process did not run for \d+\.\d s or more: it was stopped by a signal")


def test_unix_clients_are_named(lab):
    server = lab.server(host=f'unix:{lab.folder}/rpc.sock')
    lab.logits([server])
    assert re.search(rf'Accepted client connection from local \(session \d+\), uid {os.getuid()}, pid \d+\n', server.out())
