"""Runs commands in a machine: the host's end of the byte stream to guest/agent.c, which documents the protocol."""
import os
import re
import signal
import struct
import threading
import time

from .errors import LabError, MachineGone, TimedOut

HEADER = struct.Struct('<III')  # length of the payload, id, kind
LIMIT = 1 << 20  # bytes in a frame


class Process:
    """A command in a machine, with its output. Any thread may call the methods."""

    def __init__(self, channel, number, title):
        self._channel = channel
        self._number = number
        self._changed = threading.Condition()
        self._output = bytearray()
        self._status = None  # returncode, or an exception
        self.title = title
        self.listener = None  # called with each piece of output, by the channel's thread

    def __repr__(self):
        return f'<Process {self.title}>'

    def output(self):
        """stdout and stderr so far."""
        with self._changed:
            return self._output.decode(errors='replace')

    @property
    def returncode(self):
        """None while it runs; -N if signal N ended it."""
        return None if isinstance(self._status, Exception) else self._status

    def wait_for(self, text, timeout=30):
        """Waits until the output contains text, a string or a compiled pattern; returns the match, or the string."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                output = self._output.decode(errors='replace')
                found = text.search(output) if isinstance(text, re.Pattern) else (text if text in output else None)
                if found:
                    return found
                wanted = getattr(text, 'pattern', text)
                if self._status is not None:
                    raise self._error(LabError, f'ended without printing {wanted!r}')
                if not self._changed.wait(deadline - time.monotonic()):
                    raise self._error(TimedOut, f'did not print {wanted!r} in {timeout:g} s')

    def wait(self, timeout=30):
        """Waits until the command has ended; returns its returncode."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._status is not None, timeout):
                raise self._error(TimedOut, f'did not end in {timeout:g} s')
            if isinstance(self._status, Exception):
                raise self._error(MachineGone, str(self._status))
            return self._status

    def kill(self, number=signal.SIGKILL):
        """Sends the signal to the command's process group. Does nothing if the command has ended."""
        self._channel.send(self._number, 'K', struct.pack('<I', number))

    def write(self, data):
        """Sends input to a command that was started with a terminal."""
        self._channel.send(self._number, 'I', data)

    def resize(self, rows, columns):
        self._channel.send(self._number, 'W', struct.pack('<II', rows, columns))

    def _error(self, kind, what):
        return kind(f'{self.title}: {what}; it printed:\n{self._output.decode(errors="replace")}')

    def _received(self, data):
        with self._changed:
            self._output += data
            self._changed.notify_all()
        if self.listener:
            self.listener(data)

    def _ended(self, status):
        with self._changed:
            self._status = status
            self._changed.notify_all()


class Channel:
    """Owns the socket, and a thread that reads from it until the machine ends."""

    def __init__(self, socket, machine):
        self._socket = socket
        self._machine = machine  # its name
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._processes = {}
        self._last = 0
        self._ready = self._gone = False
        self._reader = threading.Thread(target=self._read, name=f'lab machine {machine}', daemon=True)
        self._reader.start()

    def wait_ready(self, timeout):
        with self._state:
            if not self._state.wait_for(lambda: self._ready or self._gone, timeout):
                raise TimedOut(f'machine {self._machine} did not boot within {timeout:g} s')
            if self._gone:
                raise MachineGone(f'machine {self._machine} ended during boot')

    def start(self, title, arguments, environment, tty=False):
        """Starts a command. title: for messages. environment: the complete environment, name -> value; the command starts in
        PWD."""
        settings = [f'{name}={value}' for name, value in environment.items()]
        strings = ['tty' if tty else 'null', *settings, '', *arguments]
        request = b''.join(os.fsencode(string) + b'\0' for string in strings)
        if len(request) > LIMIT:
            raise LabError(f'the command and its environment have {len(request)} bytes; the maximum is {LIMIT}')
        with self._state:
            self._last += 1
            number = self._last
            process = Process(self, number, f'{self._machine}$ {title}')
            if self._gone:
                process._ended(MachineGone(f'machine {self._machine} is not running'))
                return process
            self._processes[number] = process
        self.send(number, 'S', request)
        return process

    def send(self, number, kind, data):
        try:
            with self._sending:
                self._socket.sendall(HEADER.pack(len(data), number, ord(kind)) + data)
        except OSError:
            pass  # the machine has ended; the reader reports it

    def close(self):
        """Call it after the machine has ended."""
        self._reader.join(5)
        self._socket.close()

    def _read(self):
        buffer = bytearray()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b''
            if not data:
                break
            buffer += data
            while len(buffer) >= HEADER.size:
                length, number, kind = HEADER.unpack_from(buffer)
                if len(buffer) < HEADER.size + length:
                    break
                self._handle(number, chr(kind), bytes(buffer[HEADER.size:HEADER.size + length]))
                del buffer[:HEADER.size + length]
        with self._state:
            self._gone = True
            left, self._processes = self._processes, {}
            self._state.notify_all()
        for process in left.values():
            process._ended(MachineGone(f'machine {self._machine} has ended'))

    def _handle(self, number, kind, data):
        with self._state:
            if kind == 'R':
                self._ready = True
                self._state.notify_all()
                return
            process = self._processes.pop(number, None) if kind == 'X' else self._processes.get(number)
        if process and kind == 'O':
            process._received(data)
        elif process and kind == 'X':
            process._ended(os.waitstatus_to_exitcode(struct.unpack('<I', data)[0]))
