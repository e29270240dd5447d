"""What an installed Caravan consists of, and a ggml that it was not built for."""
import os
import re
import subprocess

import system
from system import BIN

OTHER_GGML = 'const char * ggml_version(void) { return "0.26.1"; }'


def test_install_puts_the_files_where_ggml_looks(lab):
    subprocess.run(['cmake', '--install', str(BIN.parent)], check=True, capture_output=True,
                   env={**os.environ, 'DESTDIR': str(lab.folder / 'root')})
    files = {str(path.relative_to(lab.folder / 'root')) for path in (lab.folder / 'root').rglob('*') if path.is_file()}
    assert any(re.search(r'ggml/backends\d*/libggml-rpc-caravan\.so$', name) for name in files), files
    for program in ['rpc-server', 'rpc-doctor', 'rpc-bench']:
        assert any(name.endswith(f'bin/{program}') for name in files), files


def test_a_ggml_of_another_version_is_refused_and_stock_is_used(lab):
    source, library = lab.folder / 'other.c', lab.folder / 'other.so'
    source.write_text(OTHER_GGML)
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', library, source], check=True)
    preload = ':'.join(filter(None, [system.PRELOAD, str(library)]))
    server = lab.server()
    done = lab.run(['llama-bench', '--rpc', server.endpoint, '--list-devices'], env={'LD_PRELOAD': preload})
    assert done.rc == 0
    assert done.lines('steps aside: built for ggml 0.27'), done.log
    assert done.lines(f'RPC0: {server.endpoint} '), 'the stock plug-in took over'
