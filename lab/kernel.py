#!/usr/bin/env python3
"""Builds a kernel for the lab from Debian packages. kernel.sh downloads them and runs this in the userland.

kernel.py stock|uml DEBS FOLDER: reads the packages in DEBS and writes to FOLDER, which is empty:
  stock  vmlinux (uncompressed: boots four times as fast under emulation), modules.cpio, version
  uml    linux (a program), version"""
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)
from lab import image


def unpack(debs, into):
    for deb in sorted(debs.glob('*.deb')):
        subprocess.run(['dpkg-deb', '-x', str(deb), str(into)], check=True)


def only(paths, what):
    paths = list(paths)
    if len(paths) != 1:
        sys.exit(f'lab: the packages contain {len(paths)} candidates for {what}, expected 1')
    return paths[0]


def vmlinux(bzimage):
    """Returns the ELF file inside a bzImage, located by the header (Linux, Documentation/arch/x86/boot.rst)."""
    if bzimage[0x202:0x206] != b'HdrS':
        sys.exit('lab: the kernel is not a bzImage')
    setup = (bzimage[0x1f1] or 4) * 512 + 512
    offset, length = (int.from_bytes(bzimage[at:at + 4], 'little') for at in (0x248, 0x24c))
    payload = bzimage[setup + offset:setup + offset + length]
    if payload.startswith(b'\x28\xb5\x2f\xfd'):
        from compression import zstd
        return zstd.ZstdDecompressor().decompress(payload)
    if payload.startswith(b'\xfd7zXZ\0'):
        return lzma.LZMADecompressor().decompress(payload)
    sys.exit('lab: unknown compression of the kernel; expected zstd or xz')


def plain(name):
    return name.strip().replace('-', '_')


def modules(folder, wanted):
    """Returns name -> contents, in load order."""
    files = {plain(file.name.split('.ko')[0]): file for file in folder.rglob('*.ko*')}
    builtin = {plain(pathlib.Path(line).name.removesuffix('.ko'))
               for line in (folder / 'modules.builtin').read_text().splitlines()}
    found = {}

    def add(name, needed=True):
        name = plain(name)
        if name in found or name in builtin:
            return
        if name not in files:
            if needed:
                sys.exit(f'lab: the kernel has no module {name}')
            return
        contents = files[name].read_bytes()
        if files[name].suffix == '.xz':
            contents = lzma.decompress(contents)
        for names in re.findall(rb'\0softdep=pre: ([\w -]*)\0', contents):
            for other in names.decode().split():
                add(other, needed=False)
        for names in re.findall(rb'\0depends=([\w,-]+)\0', contents):
            for other in names.decode().split(','):
                add(other)
        found[name] = contents

    for name in wanted:
        add(name)
    return found


def make_stock(debs, folder):
    tree = debs / 'tree'
    unpack(debs, tree)
    image_file = only([*tree.glob('usr/lib/modules/*/vmlinuz'), *tree.glob('boot/vmlinuz-*')], 'the kernel')
    module_folder = only([*tree.glob('usr/lib/modules/*'), *tree.glob('lib/modules/*')], 'the modules')
    (folder / 'vmlinux').write_bytes(vmlinux(image_file.read_bytes()))
    wanted = [line for line in (image.HERE / 'stock.modules').read_text().splitlines() if not line.startswith('#')]
    archive = {'modules': None}
    for number, (name, contents) in enumerate(modules(module_folder, wanted).items()):
        archive[f'modules/{number:03}-{name}.ko'] = contents
    (folder / 'modules.cpio').write_bytes(image.cpio(archive))
    (folder / 'version').write_text(module_folder.name + '\n')


def edit(path, pattern, replacement):
    text, count = re.subn(pattern, replacement, path.read_text(), flags=re.DOTALL)
    if count != 1:
        sys.exit(f'lab: {path} does not match the expected pattern; the kernel source has changed')
    path.write_text(text)


def make_uml(debs, folder):
    unpack(debs, debs / 'tree')
    archive = only((debs / 'tree/usr/src').glob('linux-source-*.tar.*'), 'the kernel source')
    subprocess.run(['tar', '-x', '-C', str(debs), '-f', str(archive)], check=True)
    shutil.rmtree(debs / 'tree')
    source = only((path for path in debs.glob('linux-source-*') if path.is_dir()), 'the kernel source')
    # Static linking is safe: the network device resolves no names, because it uses an inherited socket.
    edit(source / 'arch/um/drivers/Kconfig', r'(\nconfig UML_NET_VECTOR\n(?:(?!\nconfig ).)*?)\n\s*select '
         'MAY_HAVE_RUNTIME_DEPS', r'\1')
    # A tick of 1 ms, because the default delays timers of RDMA and TCP by up to 10 ms.
    edit(source / 'arch/um/Kconfig', r'(\nconfig HZ\n(?:(?!\nconfig ).)*?default) 100\n', r'\1 1000\n')
    built = debs / 'built'
    built.mkdir()
    make = ['make', '-s', '-C', str(source), 'ARCH=um', f'O={built}']
    subprocess.run([*make, f'KCONFIG_ALLCONFIG={image.HERE / "uml.config"}', 'allnoconfig'], check=True)
    if 'CONFIG_RDMA_RXE=y' not in (built / '.config').read_text().splitlines():
        sys.exit('lab: this kernel source does not enable rdma_rxe with uml.config')
    subprocess.run([*make, f'-j{len(os.sched_getaffinity(0))}', 'linux'], check=True)
    shutil.copy(built / 'linux', folder / 'linux')
    subprocess.run(['strip', '--strip-debug', str(folder / 'linux')], check=True)
    (folder / 'version').write_text(source.name.removeprefix('linux-source-') + '\n')


def main():
    kind, debs, folder = sys.argv[1:]
    {'stock': make_stock, 'uml': make_uml}[kind](pathlib.Path(debs), pathlib.Path(folder))


if __name__ == '__main__':
    main()
