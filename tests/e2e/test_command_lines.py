"""Command lines of the programs: --help, errors and exit codes; findings of rpc-doctor."""
import json
import re

import pytest

from system import BIN

RPC_DOCTOR = BIN / 'rpc-doctor'
PROGRAMS = ['rpc-server', 'rpc-doctor', 'rpc-bench']


def doctor(lab, *arguments, rc=0, env=None):
    return lab.run([RPC_DOCTOR, *arguments], tool=False, rc=rc, env={'GGML_RPC_TRANSPORT': '', **(env or {})}, timeout=60)


def test_doctor_finds_no_fault_without_rdma(lab):
    server = lab.server()
    text = doctor(lab, server.endpoint, '--time', 50).out
    assert text.rstrip().endswith('No faults found.') and '  FIX ' not in text, text
    assert 'sessions use TCP' in text or 'sessions use RDMA' in text, text


def test_doctor_predicts_tensor_parallelism(lab):
    servers = [lab.server().endpoint for _ in range(3)]
    text = doctor(lab, *servers, '--time', 50).out
    assert f'Tensor parallelism (-sm tensor) over {" ".join(servers)}' in text and 'No faults found.' in text
    assert re.search(r'links between the servers: tcp\n', text)
    assert re.search(r'time to add it up +(\d+ µs *){5}\n', text)
    assert re.search(r'dense, 8 B +(\d+\.\d\d *){5}\n', text)
    facts = json.loads(doctor(lab, *servers, '--json', '--time', 50).out)['all_reduce']
    assert facts['failure'] is None and [sum_['bytes'] for sum_ in facts['sums']][0] == 4096
    assert all(0 < sum_['median_us'] < 1e6 for sum_ in facts['sums'])


def test_doctor_reports_servers_without_links(lab):
    servers = [lab.server('--links', 'off').endpoint, lab.server().endpoint]
    text = doctor(lab, *servers, '--time', 50).out
    assert 'the servers do not add up tensors directly: ' in text and 'cannot open a link' in text


def test_doctor_reports_requested_rdma_that_is_missing(lab):
    text = doctor(lab, rc=1, env={'GGML_RDMA_DEV': 'no_such_device', 'GGML_RPC_TRANSPORT': 'rdma'}).out
    assert '  FIX ' in text


@pytest.mark.parametrize('endpoint', ['127.0.0.1:1', 'no.such.host.invalid', 'unix:/no/such/socket'])
def test_doctor_gives_advice_for_unreachable_servers(lab, endpoint):
    text = doctor(lab, endpoint, rc=1).out
    finding = text[text.index('\nEndpoint '):].splitlines()[2:]
    assert finding[0].startswith('  FIX   cannot connect: ') and endpoint not in finding[0], text
    assert finding[1].startswith('        -> '), text


@pytest.mark.parametrize('program', PROGRAMS)
def test_help_has_one_form(lab, program):
    text = lab.run([BIN / program, '--help'], tool=False).out
    lines = text.splitlines()
    assert re.match(r'[A-Z].*\.$', lines[0]) and lines[1] == '' and lines[2].startswith(f'Usage: {program} '), text
    options = text[text.index('\nOptions:\n'):].split('\n\n')[0]
    assert '  -h, --help              print this help and exit\n' in options
    assert '\nEnvironment' in text and '\nExit codes:\n  0  ' in text
    for jargon in ['INT', 'TEXT', '{', '}', ' in [', 'REQUIRED', ':FILE', 'Needs:']:
        assert jargon not in options, jargon
    assert max(map(len, lines)) <= 120
    for line in options.splitlines()[2:]:
        assert re.match(r'  (-\w, |    )--[a-z-]+|' + ' ' * 26 + r'\S', line), line


@pytest.mark.parametrize('program, arguments, words', [
    ('rpc-bench', ['--rpc', 'a', '-p', '512'], '--n-prompt: needs a model: -m FILE'),
    ('rpc-bench', ['--rpc', 'a', '-m', '/etc/passwd', '--time', '5'], '--time: has no effect with a model'),
    ('rpc-bench', ['--rpc', 'a', '-m', '/etc/passwd', '--local-device', 'none'], '--local-device needs --against local'),
    ('rpc-bench', ['--rpc', 'a,b', '--allreduce', '-m', '/etc/passwd'], '--allreduce: has no effect with a model'),
    ('rpc-bench', ['--rpc', 'a,b', '--allreduce', '--time', '5'], '--time: has no effect with --allreduce'),
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
    ('rpc-server', ['--max-memory', '0'], '--max-memory: 0 bytes is too little: the minimum is 1 MiB; write, for example, 500M'),
    ('rpc-server', ['--max-memory', '1K'], '--max-memory: 1 KiB is too little: the minimum is 1 MiB'),
    ('rpc-server', ['-c', '--cache-size', '1K'], 'the minimum is 1 MiB (0: no limit)'),
    ('rpc-server', ['-p', '1', '--port', '2'], '--port: given more than once'),
    ('rpc-server', ['--max-sessions'], '--max-sessions: the value is missing: --max-sessions N'),
    ('rpc-server', ['--max-sessions', '2', '--max-per-address', '5'], '--max-per-address: 5 is more than the 2 of --max-sessions'),
    ('rpc-bench', ['--rpc', 'a', '--rounds', 'x'], '--rounds: "x" is not a whole number from 1 to 1000000; write, for example'),
    ('rpc-bench', ['--rpc', 'a', '-o', 'xml'], '--output: "xml" is not md, json or csv'),
    ('rpc-doctor', ['--timeout', '1000', 'a'], '--timeout: "1000" is not a whole number from 1 to 300; write, for example'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else None)
def test_wrong_values_get_an_error_with_accepted_ones(lab, program, arguments, words):
    done = lab.run([BIN / program, *arguments], tool=False, rc=2, timeout=30)
    assert words in done.err and done.out == '' and f'{program} --help' in done.err
