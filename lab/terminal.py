"""Connects the user's terminal to a shell in each machine."""
import os
import queue
import shutil
import signal
import sys
import termios
import threading
import tty

from .errors import MachineGone

SWITCH = b'\x1d'  # Ctrl-]
BEHIND = 64 << 10  # bytes kept of the hidden shell's output


class _Screen:
    """Shows the output of one shell, and keeps the end of the other's output until it is shown."""

    def __init__(self, names):
        self._lock = threading.Lock()
        self._behind = {name: b'' for name in names}
        self.front = names[0]

    def received(self, name, data):
        with self._lock:
            if name == self.front:
                os.write(1, data)
            else:
                self._behind[name] = (self._behind[name] + data)[-BEHIND:]

    def show(self, name):
        with self._lock:
            self.front = name
            data, self._behind[name] = self._behind[name], b''
            os.write(1, f'\r\n[machine {name}]\r\n'.encode() + data)


def _listen(screen, name):
    return lambda data: screen.received(name, data)


def converse(pair):
    """Returns when one of the shells ends, with its exit code."""
    screen, shells, events = _Screen(['a', 'b']), {}, queue.Queue()
    settings = {'TERM': os.environ.get('TERM', 'dumb'), 'PS1': r'\h:\w\$ '}
    for machine in (pair.a, pair.b):
        shells[machine.name] = machine.start(['bash', '--norc', '-i'], settings, tty=True)
        shells[machine.name].listener = _listen(screen, machine.name)

    def resize(*_):
        size = shutil.get_terminal_size()
        for process in shells.values():
            process.resize(size.lines, size.columns)

    def read():
        while data := os.read(0, 4096):
            events.put(data)
        events.put(None)

    def ended(process):
        try:
            events.put(process.wait(None))
        except MachineGone:
            events.put(1)

    is_terminal = sys.stdin.isatty()
    before = termios.tcgetattr(0) if is_terminal else None
    try:
        if is_terminal:
            tty.setraw(0)
            signal.signal(signal.SIGWINCH, resize)
            resize()
        shells['a'].write(b'\n')  # prints a prompt again: the first may have been printed before the listener was set
        threading.Thread(target=read, daemon=True).start()
        for process in shells.values():
            threading.Thread(target=ended, args=(process,), daemon=True).start()
        while True:
            event = events.get()
            if isinstance(event, int):
                return event if event >= 0 else 128 - event
            if event is None:  # end of input: end the shells
                shells[screen.front].write(b'\x04')
                continue
            for number, part in enumerate(event.split(SWITCH)):
                if number:
                    screen.show('b' if screen.front == 'a' else 'a')
                if part:
                    shells[screen.front].write(part)
    finally:
        if is_terminal:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
