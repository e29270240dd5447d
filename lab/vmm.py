"""How to start each kind of virtual machine, and how to unplug its network cable.

Both kinds inherit their sockets as file descriptors, so that no other process can reach them, and use the same initramfs.
The wire is a pair of sockets that preserve packet boundaries; each machine holds one end."""
import dataclasses
import json
import os
import pathlib
import re
import socket

SNDBUFFORCE = 32  # SO_SNDBUFFORCE, which Python does not name
WIRE_BYTES = 4 << 20  # buffered on the wire


@dataclasses.dataclass
class Spec:
    name: str
    number: int  # 1 or 2
    folder: pathlib.Path  # for the files NAME.console and so on
    kernel: pathlib.Path  # folder
    memory: int  # MiB
    mtu: int  # of the wire
    wire: socket.socket
    shares: list  # of (path, 'ro' or 'rw'), / first


def host_mhz():
    found = re.search(r'^cpu MHz\s*: ([\d.]+)', pathlib.Path('/proc/cpuinfo').read_text(), re.MULTILINE)
    return float(found[1]) if found else 2500.0


def cable(kind):
    """Returns both ends of a wire between two machines of that kind."""
    pair = socket.socketpair(socket.AF_UNIX, KINDS[kind].packets)
    for end in pair:
        try:
            end.setsockopt(socket.SOL_SOCKET, SNDBUFFORCE, WIRE_BYTES)
        except PermissionError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WIRE_BYTES)  # up to net.core.wmem_max
    return pair


class Uml:
    """User Mode Linux: the kernel as a program. File systems are the host's, over hostfs."""
    packets = socket.SOCK_SEQPACKET

    def __init__(self, spec):
        self._spec = spec
        self.line, self._guest_line = socket.socketpair()
        self.fds = [self._guest_line.fileno(), spec.wire.fileno()]

    def conf(self):
        yield 'line', '/dev/ttyS0'
        yield 'cpu', f'{host_mhz():.3f}'  # perftest reads it
        for path, mode in self._spec.shares:
            yield 'mount', 'hostfs', mode, str(path), str(path)

    def modules(self):
        return b''

    def command(self, initramfs):
        spec = self._spec
        return [str(spec.kernel / 'linux'), f'mem={spec.memory}M', 'seccomp=on', f'initrd={initramfs}',
                f'uml_dir={spec.folder}/', f'umid={spec.name}', 'con=null', 'con0=null,fd:2', 'ssl=null',
                f'ssl0=fd:{self._guest_line.fileno()}',
                f'vec0:transport=fd,fd={spec.wire.fileno()},depth=64,mtu={spec.mtu},vec=1', 'quiet', 'panic=-1']

    def environment(self):
        """The guest's memory is a file; place it where space is available."""
        environment = dict(os.environ)
        environment.pop('TMPDIR', None)
        room = os.statvfs('/dev/shm')
        if room.f_bavail * room.f_frsize < 3 * self._spec.memory << 20:
            environment['TMPDIR'] = str(self._spec.folder)
        return environment

    def started(self):
        """Closes this process's copy of the guest's end, so that the guest holds the only one."""
        self._guest_line.close()

    # The device vec0 can open its socket only once, so it stays up in a separate namespace, and eth0 is a veth into that
    # namespace.
    def eth0(self, mac, mtu):
        return f'''
            ip netns add wire
            ip link set vec0 netns wire
            ip link add eth0 mtu {mtu} address {mac} type veth peer name port0 mtu {self._spec.mtu} netns wire
            ip -n wire -batch - <<END
                link add bridge0 type bridge
                link set vec0 mtu {self._spec.mtu} master bridge0 up
                link set port0 master bridge0 up
                link set bridge0 up
END
        '''

    # A cable of its own between the machines, though the packets of both share a socket.
    def eth1(self, mac, mtu):
        return f'''
            ip link add eth1 mtu {mtu} address {mac} type veth peer name port1 mtu {self._spec.mtu} netns wire
            ip -n wire link set port1 master bridge0 up
        '''

    def link(self, machine, up, number=0):
        machine.run(f'ip -n wire link set port{number} {"up" if up else "down"}', check=True)

    def close(self):
        self._guest_line.close()


class Qemu:
    """QEMU's microvm with Debian's kernel. File systems are the host's, over 9p."""
    packets = socket.SOCK_DGRAM
    accelerator: list

    def __init__(self, spec):
        self._spec = spec
        self.line, self._guest_line = socket.socketpair()
        self._monitor, self._guest_monitor = socket.socketpair()
        self._monitor.settimeout(10)
        self._said = self._monitor.makefile('rb')
        self.fds = [self._guest_line.fileno(), self._guest_monitor.fileno(), spec.wire.fileno()]

    def conf(self):
        yield 'line', 'virtio'
        for number, (path, mode) in enumerate(self._spec.shares):
            yield 'mount', '9p', mode, f'share{number}', str(path)

    def modules(self):
        return (self._spec.kernel / 'modules.cpio').read_bytes()

    def command(self, initramfs):
        spec = self._spec
        khz = round(host_mhz() * 1000)  # otherwise the guest measures it, which fails under slow emulation
        command = ['qemu-system-x86_64', *self.accelerator,
                   '-M', 'microvm,rtc=on,pit=on,pic=on,pcie=on', '-bios', 'qboot.rom',
                   '-m', str(spec.memory), '-smp', '1',
                   '-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'none', '-no-reboot',
                   '-kernel', str(spec.kernel / 'vmlinux'), '-initrd', str(initramfs),
                   '-append', 'console=hvc0 quiet panic=-1 mitigations=off random.trust_cpu=on audit=0 '
                   f'tsc=reliable tsc_early_khz={khz}',
                   '-device', 'virtio-serial-pci',
                   '-chardev', f'file,id=console,path={spec.folder}/{spec.name}.console,append=on',
                   '-device', 'virtconsole,chardev=console',
                   '-chardev', f'socket,id=line,fd={self._guest_line.fileno()}',
                   '-device', 'virtserialport,chardev=line,name=lab',
                   '-chardev', f'socket,id=monitor,fd={self._guest_monitor.fileno()}',
                   '-qmp', 'chardev:monitor',
                   '-netdev', f'dgram,id=wire,local.type=fd,local.str={spec.wire.fileno()}',
                   '-device', f'virtio-net-pci,netdev=wire,romfile=,mac={mac(spec.number)}']
        for number, (path, mode) in enumerate(spec.shares):
            escaped = str(path).replace(',', ',,')
            command += ['-fsdev', f'local,id=share{number},path={escaped},security_model=none,multidevs=remap'
                        + (',readonly=on' if mode == 'ro' else ''),
                        '-device', f'virtio-9p-pci,fsdev=share{number},mount_tag=share{number}']
        return command

    def environment(self):
        return dict(os.environ)

    def started(self):
        self._guest_line.close()
        self._guest_monitor.close()
        self._said.readline()  # the greeting
        self._ask('qmp_capabilities')

    def _ask(self, command, **arguments):
        self._monitor.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode() + b'\n')
        while True:
            answer = json.loads(self._said.readline() or b'{"error": "it has ended"}')
            if 'error' in answer:
                raise OSError(f'QEMU: {command}: {answer["error"]}')
            if 'return' in answer:
                return

    def eth0(self, mac, mtu):
        return f'ip link set eth0 mtu {mtu}\n'

    def link(self, machine, up):
        self._ask('set_link', name='wire', up=up)

    def close(self):
        for end in (self._guest_line, self._guest_monitor, self._said, self._monitor):
            end.close()


class Tcg(Qemu):
    accelerator = ['-accel', 'tcg,thread=multi,tb-size=512', '-cpu', 'max']


class Kvm(Qemu):
    accelerator = ['-accel', 'kvm', '-cpu', 'host,-arch-capabilities']


KINDS = {'uml': Uml, 'kvm': Kvm, 'tcg': Tcg}


def mac(number):
    return f'52:54:00:ca:7a:{number:02x}'
