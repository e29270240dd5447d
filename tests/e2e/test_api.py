"""The plug-in's C API (include/caravan.h), as C programs use it."""
import os
import re
import subprocess

import pytest

from system import ROOT

STRICT = ['-std=c11', '-Wall', '-Wextra', '-Wpedantic', '-Wstrict-prototypes', '-Wshadow', '-Werror']


def compile_c(source, program):
    """With ggml only: programs do not link with the plug-in."""
    done = subprocess.run([os.environ.get('CC', 'cc'), *STRICT, f'-I{ROOT / "include"}', str(source), '-o', str(program),
                           '-lggml', '-lggml-base'], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return program


@pytest.mark.parametrize('kind, mode', [('tcp', 'idle'), ('tcp', 'busy'), ('unix', 'busy')])
def test_program_uses_the_whole_api(lab, kind, mode):
    server = lab.server(host='127.0.0.1' if kind == 'tcp' else f'unix:{lab.folder}/socket')
    program = lab.start('use_api', [compile_c(ROOT / 'tests' / 'e2e' / 'use_api.c', lab.folder / 'use_api'), server.endpoint,
                                    mode])
    program.wait_for(r'ready now\n')
    server.kill()
    done = lab.expect_exit(program, None, 0)
    values = dict(line.split(' ', 1) for line in done.out.splitlines())
    assert values['lost:'] != '' and values['transport'] == kind and values['dialect'] == 'native'
    assert int(values['launches']) == 10 if mode == 'idle' else int(values['launches']) >= 10
    assert len(done.lines(rf'RPC server {re.escape(server.endpoint)} is lost: ')) == 1


def test_example_of_the_documentation(lab):
    example, = re.findall(r'```c\n(.*?)```', (ROOT / 'docs' / 'api.md').read_text(), re.S)
    source = lab.folder / 'example.c'
    source.write_text(example)
    program = compile_c(source, lab.folder / 'example')
    server = lab.server()
    done = lab.run([program, server.endpoint])
    assert done.out.splitlines()[0] == '2 4 6 8'
    assert re.fullmatch(r'tcp: 1 graphs, \d+ sends, \d+ round trips', done.out.splitlines()[1])
    assert server.served() == 1, "the server's own count"
    unreachable = lab.run([program, 'unix:/no/such/socket'], rc=1)
    assert '/no/such/socket' in unreachable.err
    stock = lab.run([program, server.endpoint], ours=False, rc=2)
    assert stock.lines('^usage: example ENDPOINT, with Caravan'), "stock's plug-in has no such API"
