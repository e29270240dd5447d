"""Fails unless each module can include the headers of the modules below it and of no others, as the compiler sees it.

Usage: check_layers.py SRC BUILD
"""
import json
import pathlib
import shlex
import subprocess
import sys

# The modules whose headers each module can include (docs/architecture.md, Modules), besides its own. Headers
# include those of the modules below them, so a module sees these, too.
NET = 'base platform wire net'
CACHE = 'base platform wire cache'
GRAPH = 'base platform wire abi server/ops'
CLIENT = f'{NET} cache indexer abi'
SESSION = f'{NET} {GRAPH} server/graph cache server/ipc server/links'
LAYERS = {
    'base': '',
    'platform': 'base',
    'wire': 'base',
    'abi': 'base',
    'net': 'base platform wire',
    'cache': 'base platform wire',
    'indexer': CACHE,
    'client': CLIENT,
    'doctor': f'{CLIENT} client',
    'bench': f'{CLIENT} client doctor',
    'tools': 'base',
    'server/ipc': f'{NET} cache',
    'server/supervisor': f'{NET} cache server/ipc',
    'server/confine': CACHE,
    'server/ops': 'base abi',
    'server/graph': GRAPH,
    'server/links': NET,
    'server/session': SESSION,
    'server/worker': f'{SESSION} server/session indexer server/confine',
}


def compiler_and_folders(commands, module):
    """The compiler of a module, and the options that name its include folders."""
    output = f'caravan_{module.replace("/", "_")}.dir/'
    words = next(shlex.split(entry['command']) for entry in commands if output in entry['command'])
    folders = []
    for option, value in zip(words, words[1:] + ['']):
        if option in ('-I', '-isystem', '-iquote'):
            folders += [option, value]
        elif option.startswith('-I'):
            folders.append(option)
    return words[0], folders


def visible(commands, module, header_of):
    """The modules whose headers `module` can include."""
    compiler, folders = compiler_and_folders(commands, module)
    source = ''.join(f'#if __has_include("{header}")\nvisible {other}\n#endif\n' for other, header in header_of.items())
    out = subprocess.run([compiler, *folders, '-E', '-P', '-x', 'c++', '-'], input=source, capture_output=True, text=True,
                         check=True).stdout
    return {line.split()[1] for line in out.splitlines() if line.startswith('visible ')}


def main():
    src = pathlib.Path(sys.argv[1])
    commands = json.loads((pathlib.Path(sys.argv[2]) / 'compile_commands.json').read_text())
    header_of = {module: next((src / module).rglob('*.h')).relative_to(src).as_posix() for module in LAYERS}
    faults = []
    for module, below in LAYERS.items():
        found, expected = visible(commands, module, header_of), {module, *below.split()}
        faults += [f'{module} can include headers of {other}' for other in sorted(found - expected)]
        faults += [f'{module} cannot include headers of {other}' for other in sorted(expected - found)]
    if faults:
        print('\n'.join(faults))
        sys.exit(1)


main()
