"""A TCP proxy whose connections can be cut: what is on its way is lost, and both ends see a reset."""
import contextlib
import socket
import struct
import threading
import time

from system import eventually, tcp_ports

RESET_ON_CLOSE = struct.pack('ii', 1, 0)  # SO_LINGER, no time: a reset


class Proxy:
    """In front of `server`; `endpoint` is what clients are given. Runs in threads until close()."""

    def __init__(self, server):
        host, _, port = server.endpoint.rpartition(':')
        self.target = (host, int(port))
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.endpoint = f'127.0.0.1:{self.listener.getsockname()[1]}'
        self.lock = threading.Lock()
        self.pairs = {}      # (near, far): how many of the two directions are open
        self.passed = 0      # bytes, in both directions
        self.connections = 0
        self.cuts = 0
        self.cut_after = None  # cut whenever so many bytes have passed
        self.short_lived = iter(())  # of each new connection: after how many bytes it is cut; None: not
        self._lifetimes = {}
        self._carried = {}  # bytes of each connection
        self.damage = None  # 'lost' or 'altered', for the next short piece of data, or 'altered long': once
        self.damaged_processes = ()  # damage is done to their connections only
        self.refuses = False
        self.refused_processes = ()  # whose connections are refused
        self.frozen = False  # connections stay, nothing passes; nothing is lost
        self._since_cut = 0
        self._start(self._accept)

    def _start(self, target, *args):
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            lifetime = next(self.short_lived, None)
            try:
                if self.refuses or lifetime == 0 or self._belongs_to(near, self.refused_processes):
                    self.cuts += lifetime == 0
                    raise ConnectionRefusedError
                far = socket.create_connection(self.target)
            except OSError:
                self._reset(near)
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (near, far)
            with self.lock:
                self.connections += 1
                self.pairs[pair] = 2
                self._lifetimes[pair] = lifetime
                self._carried[pair] = 0
            self._start(self._pass, near, far, pair)
            self._start(self._pass, far, near, pair)

    def _pass(self, source, sink, pair):
        try:
            while data := source.recv(65536):
                self._thaw()
                data = self._damaged(data, pair[0])
                left = self._lifetimes[pair]
                sink.sendall(data[:left])
                with self.lock:
                    if left is not None:
                        self._lifetimes[pair] = left - len(data)
                        if left <= len(data) and pair in self.pairs:
                            self.cuts += 1
                            self._close(pair, self._reset)
                            return
                    self.passed += len(data)
                    self._carried[pair] += len(data)
                    self._since_cut += len(data)
                    due = self.cut_after is not None and self._since_cut >= self.cut_after
                if due:
                    self.cut()
            self._thaw()
            with self.lock:
                if pair in self.pairs:
                    sink.shutdown(socket.SHUT_WR)  # an orderly end stays one
                    self.pairs[pair] -= 1
                    if self.pairs[pair] == 0:
                        self._close(pair)
        except OSError:
            with self.lock:
                if pair in self.pairs:
                    self._close(pair, self._reset)  # so does a reset

    def _damaged(self, data, near):
        with self.lock:
            if self.damage is not None and self.damaged_processes and not self._belongs_to(near, self.damaged_processes):
                return data
            if self.damage is None or not (40 < len(data) <= 8192 if self.damage != 'altered long' else len(data) > 50_000):
                return data
            kind, self.damage = self.damage, None
        middle = len(data) // 2
        return b'' if kind == 'lost' else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]

    def _thaw(self):
        while self.frozen:
            time.sleep(0.01)

    @staticmethod
    def _reset(end):
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            end.shutdown(socket.SHUT_RD)  # ends our own recv; close alone would not
        except OSError:
            pass
        end.close()

    def _close(self, pair, how=socket.socket.close):
        del self.pairs[pair]
        for end in pair:
            how(end)

    def close_busy(self):
        """Like a firewall that closes all connections in an orderly manner, except those that carry next to nothing."""
        with self.lock:
            for pair in [pair for pair in self.pairs if self._carried[pair] > 1000]:
                self.cuts += 1
                for end in pair:
                    end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _belongs_to(near, processes):
        try:
            return any(near.getpeername()[1] in tcp_ports(process) for process in processes)
        except OSError:
            return False

    def cut(self, processes=None):
        """All connections, or those that these processes opened, such as links from another server's workers."""
        with self.lock:
            self._since_cut = 0
            chosen = [pair for pair in self.pairs if processes is None or self._belongs_to(pair[0], processes)]
            self.cuts += bool(chosen)
            for pair in chosen:
                self._close(pair, self._reset)

    def close(self):
        self.frozen = False
        self.listener.close()
        self.cut()

    def wait_connected(self):
        eventually(lambda: self.pairs, 'somebody connects through the proxy')


@contextlib.contextmanager
def proxies(*servers):
    made = [Proxy(server) for server in servers]
    try:
        yield made
    finally:
        for proxy in made:
            proxy.close()


@contextlib.contextmanager
def cutting(proxies, every):
    """All connections break again and again, each time after `every` seconds."""
    done = threading.Event()

    def work():
        while not done.wait(every):
            for proxy in proxies:
                proxy.cut()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
