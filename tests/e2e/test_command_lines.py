"""The programs as a new user meets them: what they print first, and their exit codes."""
import re

import pytest

from system import BIN

RPC_DOCTOR = BIN / 'rpc-doctor'
PROGRAMS = ['rpc-server', 'rpc-doctor', 'rpc-bench']


def doctor(lab, *arguments, rc=0, env=None):
    return lab.run([RPC_DOCTOR, *arguments], tool=False, rc=rc, env={'GGML_RPC_TRANSPORT': '', **(env or {})}, timeout=60)


def test_the_doctor_finds_a_machine_with_tcp_alone_well(lab):
    server = lab.server()
    said = doctor(lab, server.endpoint, '--time', 50).out
    assert said.rstrip().endswith('All is well.') and '  FIX ' not in said, said
    assert 'sessions go over TCP' in said or 'sessions go over RDMA' in said, said


def test_the_doctor_misses_rdma_that_is_asked_for(lab):
    said = doctor(lab, rc=1, env={'GGML_RDMA_DEV': 'no_such_device', 'GGML_RPC_TRANSPORT': 'rdma'}).out
    assert '  FIX ' in said


@pytest.mark.parametrize('endpoint', ['127.0.0.1:1', 'no.such.host.invalid', 'unix:/no/such/socket'])
def test_the_doctor_says_what_to_do_about_a_server_that_is_not_there(lab, endpoint):
    said = doctor(lab, endpoint, rc=1).out
    finding = said[said.index('\nEndpoint '):].splitlines()[2:]
    assert finding[0].startswith('  FIX   cannot connect: ') and endpoint not in finding[0], said
    assert finding[1].startswith('        -> '), said


@pytest.mark.parametrize('program', PROGRAMS)
def test_help_has_one_form(lab, program):
    said = lab.run([BIN / program, '--help'], tool=False).out
    lines = said.splitlines()
    assert re.match(r'[A-Z].*\.$', lines[0]) and lines[1] == '' and lines[2].startswith(f'Usage: {program} '), said
    options = said[said.index('\nOptions:\n'):].split('\n\n')[0]
    assert '  -h, --help              print this help and exit\n' in options
    assert '\nEnvironment' in said and '\nExit codes:\n  0  ' in said
    for jargon in ['INT', 'TEXT', '{', '}', ' in [', 'REQUIRED', ':FILE', 'Needs:']:
        assert jargon not in options, jargon
    assert max(map(len, lines)) <= 120
    for line in options.splitlines()[2:]:
        assert re.match(r'  (-\w, |    )--[a-z-]+|' + ' ' * 26 + r'\S', line), line


@pytest.mark.parametrize('program, arguments, words', [
    ('rpc-bench', ['--rpc', 'a', '-p', '512'], '--n-prompt: needs a model: -m FILE'),
    ('rpc-bench', ['--rpc', 'a', '-m', '/etc/passwd', '--time', '5'], '--time: has no effect with a model'),
    ('rpc-bench', ['--rpc', 'a', '-m', '/etc/passwd', '--local-device', 'none'], '--local-device needs --against local'),
    ('rpc-doctor', ['--time', '50'], '--time and --timeout need an endpoint'),
], ids=str)
def test_options_without_effect_are_refused(lab, program, arguments, words):
    done = lab.run([BIN / program, *arguments], tool=False, rc=2)
    assert words in done.err and done.out == ''


@pytest.mark.parametrize('program, arguments, words', [
    ('rpc-server', ['-p', 'abc'], '--port: "abc" is not a whole number from 0 to 65535; write, for example, -p 50052'),
    ('rpc-server', ['-t', '0'], '--threads: "0" is not a whole number from 1 to 4096; write, for example, -t 8'),
    ('rpc-server', ['--drain', 'forever'], '--drain: "forever" is not a whole number of 0 or more; write, for example, '
                                           '--drain 60, or --drain infinity'),
    ('rpc-server', ['--max-memory', '0'], '--max-memory: 0 bytes is too little: the least is 1 MiB; write, for example, 500M'),
    ('rpc-server', ['--max-memory', '1K'], '--max-memory: 1 KiB is too little: the least is 1 MiB'),
    ('rpc-server', ['-c', '--cache-size', '1K'], 'the least is 1 MiB (0: no limit)'),
    ('rpc-server', ['--max-sessions'], '--max-sessions: its value is missing: --max-sessions N'),
    ('rpc-server', ['--max-sessions', '2', '--max-per-address', '5'], '--max-per-address: 5 is more than the 2 of --max-sessions'),
    ('rpc-bench', ['--rpc', 'a', '--rounds', 'x'], '--rounds: "x" is not a whole number from 1 to 1000000; write, for example'),
    ('rpc-bench', ['--rpc', 'a', '-o', 'xml'], '--output: "xml" is not md, json or csv'),
    ('rpc-doctor', ['--timeout', '1000', 'a'], '--timeout: "1000" is not a whole number from 1 to 300; write, for example'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else None)
def test_a_wrong_value_is_answered_with_what_is_accepted(lab, program, arguments, words):
    done = lab.run([BIN / program, *arguments], tool=False, rc=2, timeout=30)
    assert words in done.err and done.out == '' and f'{program} --help' in done.err
