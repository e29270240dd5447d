"""Builds the initramfs of a lab machine: the compiled guest/*.c, its configuration, and kernel modules."""
import hashlib
import os
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'caravan'


def key(*files):
    """The suffix of names in the cache: the first 12 digits of the SHA-256 of all the files."""
    return hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:12]


def cpio(entries):
    """Returns an archive in the kernel's format (cpio "newc"). entries: path -> contents as bytes, or None for a folder."""
    archive = bytearray()
    for number, (path, contents) in enumerate([*entries.items(), ('TRAILER!!!', b'')], 1):
        mode = 0o040755 if contents is None else 0o100755
        contents, name = contents or b'', path.encode() + b'\0'
        fields = (number, mode, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name), 0)
        archive += b'070701' + b''.join(b'%08X' % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + contents
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def program():
    """Returns the guest's init program, compiled once and cached."""
    sources = sorted((HERE / 'guest').glob('*.[ch]'))
    kept = CACHE / f'lab-init-{key(*sources)}'
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix='.lab-init-') as folder:
            subprocess.run(['gcc', '-O2', '-static', '-Wall', '-Wextra', '-o', f'{folder}/init',
                            *(str(source) for source in sources if source.suffix == '.c')], check=True)
            os.rename(f'{folder}/init', kept)
    return kept.read_bytes()


def initramfs(conf, modules=b''):
    """Returns the initramfs. conf: lines for guest/init.c, each a tuple of fields. modules: an archive built by kernel.py."""
    lines = ''.join('\t'.join(fields) + '\n' for fields in conf)
    # The kernel unpacks concatenated archives.
    return modules + cpio({'dev': None, 'init': program(), 'lab.conf': lines.encode()})
