"""One lab machine."""
import os
import resource
import shlex
import signal
import subprocess

from . import image, vmm
from .channel import Channel
from .errors import LabError, MachineGone, TimedOut

ROOT = image.HERE.parent
SPARE = SECOND = 'rxe1'


class Machine:
    """Created and booted by Pair. Its addresses are ip and ip6; its RDMA device is rxe0.

    Commands run as root in the checkout, with PATH and HOME of this process. The root file system is that of this process,
    read-only under an overlay in memory; /tmp, /run and /dev are separate. The pair's shared folder and the checkout have
    the same paths inside and outside."""

    def __init__(self, pair, name, number, config, wire):
        self._pair = pair
        self._config = config
        self._wire = wire
        self._process = self._vm = self._channel = None
        self.name = name
        self.number = number
        self.ip = f'10.77.0.{number}'
        self.ip6 = f'fd77::{number}'
        self.second_ip = f'10.79.0.{number}'  # of eth1, with Config(second=True)

    def run(self, command, env=None, timeout=60, check=False, **how):
        """Runs a command and returns (returncode, stdout and stderr). Other parameters as for start(). After timeout seconds
        kills the command and raises TimedOut. With check, a returncode other than 0 raises LabError."""
        process = self.start(command, env, **how)
        try:
            code = process.wait(timeout)
        except TimedOut:
            process.kill()
            raise
        if check and code != 0:
            raise LabError(f'{process.title}: returned {code}; it printed:\n{process.output()}')
        return code, process.output()

    def start(self, command, env=None, cwd=None, user=None, memlock=None, tty=False):
        """Starts a shell command, or a program if it is a list; returns its Process.

        env: additional environment; the value None removes a variable. user: numeric id of an unprivileged user [root].
        memlock: limit of locked memory in bytes; for RDMA, root is exempt. tty: run it on a terminal."""
        if isinstance(command, str):
            title, arguments = command, ['bash', '-c', command]
        else:
            arguments = [str(part) for part in command]
            title = shlex.join(arguments)
        if user is not None:
            arguments = ['setpriv', f'--reuid={user}', f'--regid={user}', '--clear-groups', '--', *arguments]
        if memlock is not None:
            arguments = ['prlimit', f'--memlock={memlock}:{memlock}', *arguments]
        environment = {'PATH': os.environ.get('PATH', '') + ':/usr/sbin:/sbin', 'HOME': os.environ.get('HOME', '/root'),
                       'LANG': 'C.UTF-8', 'TERM': 'dumb', 'PWD': cwd or ROOT,
                       'VK_DRIVER_FILES': '/nonexistent',  # Vulkan drivers take long to load, and there is no GPU
                       **(env or {})}
        environment = {name: value for name, value in environment.items() if value is not None}
        return self._channel.start(title, arguments, environment, tty)

    def link(self, up, interface=False):
        """Unplugs or plugs in the network cable: eth0 loses its carrier and keeps its addresses and routes. With interface,
        sets eth0 itself down or up; the addresses stay. README.md describes the effects on programs."""
        if interface:
            self.run(f'ip link set eth0 {"up" if up else "down"}', check=True)
        else:
            self._vm.link(self, up)

    def link_second(self, up):
        """Unplugs or plugs in the cable of eth1."""
        self._vm.link(self, up, 1)

    def counters(self, device='rxe0'):
        """The RDMA device's counters by name: sent_pkts, rcvd_pkts, retry_exceeded_err, ..."""
        _, output = self.run(f'cd /sys/class/infiniband/{device}/ports/1/hw_counters && grep -H . *', check=True)
        return {name: int(value) for name, value in (line.split(':') for line in output.split())}

    def wait_listening(self, port):
        """Waits until a program listens on the TCP port: some print that they are ready before."""
        self.run(f'for ((i = 0; i < 500; i++)); do grep -q ":{port:04X} [0-9A-F:]* 0A " /proc/net/tcp /proc/net/tcp6 && exit; '
                 f'sleep .02; done; echo "nothing listens on port {port}"; exit 1', check=True)

    def kill(self):
        """Simulates a power failure. The machine's commands end with MachineGone; boot() restarts the machine."""
        if self._process:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._channel.close()
            self._vm.close()

    def stop(self):
        """Suspends the machine until cont()."""
        self._signal(signal.SIGSTOP)

    def cont(self):
        self._signal(signal.SIGCONT)

    @property
    def pid(self):
        """Of the process that is the machine, and of its group."""
        return self._process.pid

    @property
    def running(self):
        return self._process is not None and self._process.poll() is None

    def boot(self):
        """Starts the machine and returns at once. Call wait_up() next."""
        pair, config = self._pair, self._config
        self._drain()
        spec = vmm.Spec(self.name, self.number, pair.folder, pair.backend.folder, config.memory, pair.mtu, self._wire,
                        [('/', 'ro'), (ROOT, 'ro'), (pair.shared, 'rw')])
        self._vm = vmm.KINDS[pair.backend.name](spec)
        initramfs = pair.folder / f'{self.name}.initramfs'
        initramfs.write_bytes(image.initramfs([('name', self.name), *self._vm.conf()], self._vm.modules()))
        # The process holds an open file for each file that the guest has accessed.
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        # In its own process group, the target of _signal(). --pdeathsig: the machine ends with the thread that booted it.
        with open(pair.folder / f'{self.name}.console', 'ab') as console:
            self._process = subprocess.Popen(
                ['prlimit', f'--nofile={files}:', 'setpriv', '--pdeathsig', 'KILL', *self._vm.command(initramfs)],
                start_new_session=True, pass_fds=self._vm.fds, env=self._vm.environment(), stdin=subprocess.DEVNULL,
                stdout=console, stderr=console)
        self._channel = Channel(self._vm.line, self.name)
        try:
            self._vm.started()
        except OSError as error:
            raise LabError(f'machine {self.name} did not start: {error}') from None

    def wait_up(self):
        """Waits until the machine runs commands, has its addresses, and RDMA is ready."""
        self._channel.wait_ready(self._pair.backend.boot_timeout)
        script = f'set -e\n{self._paths()}{self._network()}{self._rdma()}'
        self.run(script, timeout=self._pair.backend.boot_timeout, check=True)

    def console(self):
        """Returns the output of the kernel and of the program that runs it."""
        return (self._pair.folder / f'{self.name}.console').read_text(errors='replace')

    def _signal(self, number):
        if not self.running:
            raise MachineGone(f'machine {self.name} is not running')
        os.killpg(self._process.pid, number)

    def _drain(self):
        """Drops packets sent to the machine while it was down, as a real wire does."""
        self._wire.setblocking(False)
        try:
            while True:
                self._wire.recv(1 << 16)
        except BlockingIOError:
            self._wire.setblocking(True)

    def _paths(self):
        """Gives unprivileged users access: bubblewrap creates /usr for its own user only, and the checkout may be in a closed
        home."""
        folders = {'/usr', *map(str, (*ROOT.parents, *self._pair.shared.parents))}
        return f'chmod a+rx {shlex.join(sorted(folders))}\n'

    def _network(self):
        config, bearer = self._config, 'br0' if self._config.bridge else 'eth0'
        script = self._vm.eth0(vmm.mac(self.number), config.mtu)
        if config.bridge:
            script += f'''
                ip link add br0 mtu {config.mtu} address {vmm.mac(self.number)} type bridge
                ip link set eth0 master br0
            '''
        script += f'''
            echo 1 >/proc/sys/net/ipv6/conf/{bearer}/keep_addr_on_down
            ip -batch - <<END
                link set lo up
                link set eth0 up
                link set {bearer} up
                address add {self.ip}/24 dev {bearer}
                address add {self.ip6}/64 dev {bearer} nodad
END
            printf '10.77.0.1 a\\n10.77.0.2 b\\nfd77::1 a\\nfd77::2 b\\n' >>/etc/hosts
        '''
        if config.spare:
            script += f'''
                ip link set dummy0 mtu {config.mtu} name spare0
                ip address add 10.78.0.{self.number}/24 dev spare0
                ip link set spare0 up
                rdma link add {SPARE} type rxe netdev spare0
            '''
        else:
            script += 'ip link delete dummy0\n'
        if config.second:
            # Each interface replies to requests for its own address only.
            script += f'''
                {self._vm.eth1(vmm.mac(self.number + 0x10), config.mtu)}
                echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
                ip address add {self.second_ip}/24 dev eth1
                ip link set eth1 up
                rdma link add {SECOND} type rxe netdev eth1
            '''
        return script

    def _rdma(self):
        if not self._config.rdma:
            return ''
        # With a bridge the device need not have a GID of the address, so do not wait for it.
        gid = '' if self._config.bridge else f'ffff:0a4d:{self.number:04x}'
        return f'''
            rdma link add rxe0 type rxe netdev eth0
            cd /sys/class/infiniband/rxe0/ports/1
            for ((i = 0; i < 500; i++)); do
                if grep -q ACTIVE state && grep -q {shlex.quote(gid)} gids/*; then exit; fi
                sleep .02
            done 2>/dev/null
            echo "rxe0: port $(cat state), GIDs:" $(grep -h -v 0000:0000:0000:0000:0000:0000:0000:0000 gids/*)
            exit 1
        '''
