"""Two connected lab machines."""
import dataclasses
import pathlib
import shutil
import sys
import tempfile

from . import backend, vmm
from .errors import Unavailable
from .machine import Machine

CONSOLE_LINES = 30  # printed for each machine after a failure


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of one machine."""
    mtu: int = 4200  # of eth0. 4200 gives RDMA an MTU of 4096, 1500 one of 1024
    rdma: bool = True  # False: no RDMA device
    spare: bool = False  # a second device, rxe1, created before rxe0, on an unconnected network (spare0, 10.78.0.0/24)
    second: bool = False  # a second device, rxe1, on eth1 (10.79.0.0/24), which has a cable of its own; uml only
    bridge: bool = False  # the addresses are on the bridge br0; eth0, with rxe0 on it, is a port of that
    memory: int = 1024  # MiB


class Pair:
    """with Pair() as pair: pair.a and pair.b are two running, connected machines.

    They end with the block, and whenever the thread or process that created them ends. When an exception leaves the block,
    their consoles are printed on stderr, and the run folder is kept."""

    def __init__(self, a=Config(), b=Config(), kind=None, keep=False):
        """kind: uml, kvm or tcg [the fastest available]. keep: keep the run folder. Raises Unavailable."""
        self._keep = keep
        self.backend = backend.choose(kind)
        if self.backend.name != 'uml' and (a.second or b.second):
            raise Unavailable('a second cable needs User Mode Linux')
        self.mtu = max(a.mtu, b.mtu)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='caravan-lab-')).resolve()
        self.shared = self.folder / 'shared'  # writable inside and outside, at the same path
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        self.folder.chmod(0o755)
        self._cable = vmm.cable(self.backend.name)
        self.a = Machine(self, 'a', 1, a, self._cable[0])
        self.b = Machine(self, 'b', 2, b, self._cable[1])

    def __enter__(self):
        try:
            for machine in (self.a, self.b):
                machine.boot()
            for machine in (self.a, self.b):
                machine.wait_up()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, error, trace):
        for machine in (self.a, self.b):
            if machine.running:
                machine.kill()
        for end in self._cable:
            end.close()
        if kind and issubclass(kind, Exception):
            self._show()
        elif not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _show(self):
        for machine in (self.a, self.b):
            try:
                lines = machine.console().splitlines()
            except FileNotFoundError:
                continue
            print(f'--- console of machine {machine.name}, {self.backend.name} (complete console and shared folder: '
                  f'{self.folder})', *lines[-CONSOLE_LINES:], sep='\n', file=sys.stderr)

