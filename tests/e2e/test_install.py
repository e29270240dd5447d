"""Installation, and a ggml of another version."""
import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import system
from harness import local_logits, same
from system import BIN, MODEL, PLUGIN, ROOT

# Makes the loader report that the library is missing.
NO_LIBIBVERBS = '''
#include <dlfcn.h>
#include <string.h>
void * dlopen(const char * name, int flags) {
    void * (*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
    return next(name != 0 && strcmp(name, "libibverbs.so.1") == 0 ? "/nowhere/libibverbs.so.1" : name, flags);
}
'''
# A library that loads a plug-in as ggml does, and takes ggml's place where it defines its functions. No tail calls, so that it is
# the caller.
HOST = '''
#include <dlfcn.h>
#include <stddef.h>
%s
int score_of(const char * plugin) {
  return ((int (*)(void))dlsym(dlopen(plugin, RTLD_NOW), "ggml_backend_score"))() + 1;
}
int api_version_of(const char * plugin) {
  const int * reg = ((const int * (*)(void))dlsym(dlopen(plugin, RTLD_NOW), "ggml_backend_init"))();
  return reg == NULL ? 0 : *reg;
}
'''


def install(*arguments, build=BIN.parent, env=None):
    return subprocess.run(['cmake', '--install', str(build), *map(str, arguments)], check=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}).stdout


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}


def test_default_install_uses_the_folder_that_ggml_searches(lab):
    install(env={'DESTDIR': str(lab.folder / 'root')})
    files = files_below(lab.folder / 'root')
    assert any(re.search(r'ggml/backends\d*/libggml-rpc-caravan\.so$', name) for name in files), files
    for program in ['bin/rpc-server', 'bin/rpc-doctor', 'bin/rpc-bench', 'libexec/caravan/caravan-worker']:
        assert any(name.endswith(program) for name in files), files


def test_prefix_is_complete_and_works(lab):
    prefix = lab.folder / 'prefix'
    output = install('--prefix', prefix)
    files = files_below(prefix)
    plugin, = [name for name in files if name.endswith('libggml-rpc-caravan.so')]
    assert {'bin/rpc-server', 'libexec/caravan/caravan-worker', 'bin/rpc-doctor', 'bin/rpc-bench', 'share/doc/caravan/LICENSE',
            'share/doc/caravan/README.md', 'share/doc/caravan/docs/rdma.md', 'include/caravan.h'} <= files
    assert f'GGML_BACKEND_PATH={prefix / plugin} ' in output, output
    server = lab.server(program=prefix / 'bin/rpc-server')
    listed = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], ours=False,
                     env={'GGML_BACKEND_PATH': prefix / plugin})
    assert listed.lines(re.escape(f'loaded RPC backend from {prefix / plugin}')) and listed.lines('RPC0: .*CPU: '), listed.log
    bench = lab.run([prefix / 'bin/rpc-bench', '--rpc', server.endpoint, '-m', MODEL, '-p', 0, '-n', 4, '-r', 1, '--rounds', 1,
                     '-t', 1], ours=False)
    assert 'tg4' in bench.out, 'rpc-bench uses the plug-in of its own prefix'


def test_configuration_reports_all_missing_packages(lab):
    """As on a new machine."""
    done = subprocess.run(['cmake', '-G', 'Ninja', '-S', ROOT, '-B', lab.folder / 'build', '-DCMAKE_DISABLE_FIND_PACKAGE_CLI11=ON',
                           '-DCMAKE_DISABLE_FIND_PACKAGE_ggml=ON', '-DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON'],
                          capture_output=True, text=True)
    assert done.returncode != 0
    for words in ['libggml-dev', 'libcli11-dev', 'libgtest-dev', 'CARAVAN_TESTS=OFF', './dev run']:
        assert words in done.stderr, done.stderr
    assert 'libxxhash-dev' not in done.stderr


def test_partial_build_can_be_installed(lab):
    build, prefix = lab.folder / 'build', lab.folder / 'prefix'
    subprocess.run(['cmake', '-G', 'Ninja', '-S', ROOT, '-B', build, '-DCARAVAN_TESTS=OFF'], check=True, capture_output=True)
    nothing = subprocess.run(['cmake', '--install', build, '--prefix', prefix], capture_output=True, text=True)
    assert nothing.returncode != 0 and 'Nothing is built' in nothing.stderr and not prefix.exists()
    (build / 'bin').mkdir(exist_ok=True)
    for name in ['rpc-server', 'caravan-worker', 'libggml-rpc-caravan.so']:
        shutil.copy(BIN / name, build / 'bin' / name)
    output = install('--prefix', prefix, build=build)
    assert 'Not built, so not installed: rpc-doctor, rpc-bench' in output, output
    files = files_below(prefix)
    assert {'bin/rpc-server', 'libexec/caravan/caravan-worker'} <= files and 'bin/rpc-doctor' not in files
    assert any(name.endswith('libggml-rpc-caravan.so') for name in files)


def test_back_end_folder_can_be_chosen(lab):
    build, prefix = lab.folder / 'build', lab.folder / 'prefix'
    (build / 'bin').mkdir(parents=True)
    shutil.copy(BIN / 'libggml-rpc-caravan.so', build / 'bin')
    for chosen, place in [('lib/plugins', prefix / 'lib/plugins'), (lab.folder / 'elsewhere', lab.folder / 'elsewhere')]:
        subprocess.run(['cmake', '-G', 'Ninja', '-S', ROOT, '-B', build, '-DCARAVAN_TESTS=OFF', f'-DCMAKE_INSTALL_PREFIX={prefix}',
                        f'-DCARAVAN_BACKEND_DIR={chosen}'], check=True, capture_output=True)
        install(build=build)
        assert (place / 'libggml-rpc-caravan.so').exists()


def test_rdma_build_runs_without_libibverbs(lab):
    if b'libibverbs.so.1' not in (BIN / 'rpc-server').read_bytes():
        pytest.skip('a build without RDMA')
    needed = subprocess.run(['readelf', '-d', BIN / 'rpc-server', PLUGIN], check=True, capture_output=True, text=True).stdout
    assert 'NEEDED' in needed and 'ibverbs' not in needed
    source, library = lab.folder / 'missing.c', lab.folder / 'missing.so'
    source.write_text(NO_LIBIBVERBS)
    subprocess.run(['gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', library, source], check=True)
    env = {'LD_PRELOAD': str(library), 'GGML_RPC_TRANSPORT': ''}
    server = lab.server(env=env)
    assert '  transport      : TCP (no RDMA: libibverbs.so.1 is not installed)\n' in server.out()
    same(lab.logits([server]), local_logits(lab))
    output = lab.run([BIN / 'rpc-doctor', server.endpoint, '--time', 50], tool=False, env=env).out
    assert 'libibverbs.so.1 is not installed: all connections use TCP' in output and output.endswith('No faults found.\n')


def test_plugin_is_not_linked_with_ggml():
    """It uses the ggml that loads it, whatever its library is called."""
    needed = subprocess.run(['readelf', '-d', PLUGIN], check=True, capture_output=True, text=True).stdout
    assert 'NEEDED' in needed and 'ggml' not in needed.replace(PLUGIN.name, '')


def test_other_ggml_version_is_refused_and_stock_is_used(lab):
    source, = glob.glob('/usr/lib/*/libggml-base.so.0')
    code = Path(source).read_bytes()
    version = re.search(rb'\0(0\.\d+\.\d+)\0', code)[1]
    other = re.sub(rb'\d', b'9', version)
    (lab.folder / 'libggml-base.so.0').write_bytes(code.replace(b'\0' + version + b'\0', b'\0' + other + b'\0'))
    server = lab.server()
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], env={'LD_LIBRARY_PATH': lab.folder})
    assert done.lines(f'plug-in is disabled: built for ggml 0.27.*, but this program has ggml {other.decode()}'), done.log
    assert done.lines(f'RPC0: {server.endpoint} '), 'the stock plug-in is used'


def load_from(lab, functions, *libraries):
    """Loads the plug-in from a ggml with these functions, else with those of Debian's, in a process that has Debian's anyway."""
    source, library = lab.folder / 'host.c', lab.folder / 'libanything.so'
    source.write_text(HOST % functions)
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', library, source, '-Wl,--no-as-needed', *libraries], check=True)
    program = f"""
import ctypes, glob
ctypes.CDLL(glob.glob('/usr/lib/*/libggml.so.0')[0], ctypes.RTLD_GLOBAL)
host = ctypes.CDLL({str(library)!r})
print(host.score_of({str(PLUGIN)!r}.encode()) - 1, host.api_version_of({str(PLUGIN)!r}.encode()))
"""
    done = lab.run([sys.executable, '-c', program], tool=False)
    return (*map(int, done.out.split()), done.err.replace(str(library), 'LIBRARY'))


DEBIANS = ['-l:libggml.so.0', '-l:libggml-base.so.0']


def test_the_ggml_that_loads_the_plugin_is_used(lab):
    score, api, log = load_from(lab, 'const char * ggml_version(void) { return "0.99.0"; }')
    assert (score, api) == (0, 0)
    assert re.search(r'built for ggml 0\.27.*, but this program has ggml 0\.99\.0 \(LIBRARY\), which lacks ggml_', log), log


@pytest.mark.parametrize('version, expected', [('0.27.9', 3), ('0.25.1', 2), ('0.23.0', 2), ('0.26.0', 0), ('0.28.0', 0)])
def test_plugin_interface_of_the_version(lab, version, expected):
    score, api, log = load_from(lab, f'const char * ggml_version(void) {{ return "{version}"; }}', *DEBIANS)
    assert (score > 0, api) == (expected > 0, expected), log
    assert ('plug-in is disabled' in log) == (expected == 0)


def test_tensors_of_another_size_are_refused(lab):
    score, api, log = load_from(lab, 'size_t ggml_tensor_overhead(void) { return 368 + 64; }', *DEBIANS)
    assert (score, api) == (0, 0)
    assert 'have 400 bytes, not 336: was it built with another GGML_MAX_NAME than 64?' in log
