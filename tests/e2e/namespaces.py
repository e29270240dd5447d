"""Two networks of their own, joined by one cable: a program in each sees the other, and nothing else."""
import os
import shlex
import subprocess

import pytest

from system import before_exec, eventually

CLIENT, SERVER = '10.78.0.1', '10.78.0.2'
CABLE = 'cable0'


def _namespace(pid):
    return os.readlink(f'/proc/{pid}/ns/net')


class Namespaces:
    def __init__(self):
        self._holders = []
        try:
            own_user = [] if os.geteuid() == 0 else ['-U', '-r']
            self.client = self._hold(['unshare', *own_user, '-n'])
            self.server = self._hold([*self._enter(self.client), 'unshare', '-n'])
            self._run(self.client, f'ip link add {CABLE} type veth peer name {CABLE} netns {self.server}')
            for side, address in ((self.client, CLIENT), (self.server, SERVER)):
                self._run(side, f'ip address add {address}/24 dev {CABLE}')
                self._run(side, 'ip link set lo up')
                self._run(side, f'ip link set {CABLE} up')
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            pytest.skip(f'no network namespaces here: {error}')

    def _hold(self, command):
        """Its process keeps a namespace. Returns its id."""
        holder = subprocess.Popen([*command, 'sleep', '3600'], preexec_fn=before_exec, stderr=subprocess.DEVNULL)
        self._holders.append(holder)
        others = {_namespace(pid) for pid in ['self', *(other.pid for other in self._holders[:-1])]}
        eventually(lambda: holder.poll() is not None or _namespace(holder.pid) not in others, 'a namespace is made')
        if holder.poll() is not None:
            raise subprocess.SubprocessError('unshare may not make one')
        return holder.pid

    @staticmethod
    def _enter(pid):
        return ['nsenter', '-t', str(pid), *([] if os.geteuid() == 0 else ['-U', '--preserve-credentials']), '-n']

    def _run(self, side, command):
        subprocess.run([*self._enter(side), *shlex.split(command)], check=True, timeout=20, stdout=subprocess.DEVNULL)

    def on_client(self, command):
        self._run(self.client, command)

    def on_server(self, command):
        self._run(self.server, command)

    def client_prefix(self):
        return self._enter(self.client)

    def server_prefix(self):
        return self._enter(self.server)

    def close(self):
        for holder in self._holders:
            holder.kill()
            holder.wait()
