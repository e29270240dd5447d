"""A TCP proxy whose connections can be cut: what is on its way is lost, and both ends see a reset."""
import socket
import struct
import threading

from system import eventually

RESET_ON_CLOSE = struct.pack('ii', 1, 0)  # SO_LINGER, no time: a reset


class Proxy:
    """In front of `server`; `endpoint` is what clients are given. Runs in threads until close()."""

    def __init__(self, server):
        host, _, port = server.endpoint.rpartition(':')
        self.target = (host, int(port))
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.endpoint = f'127.0.0.1:{self.listener.getsockname()[1]}'
        self.lock = threading.Lock()
        self.pairs = []
        self.passed = 0      # bytes, in both directions
        self.connections = 0
        self.cuts = 0
        self.cut_after = None  # cut whenever so many bytes have passed
        self.refuses = False
        self._since_cut = 0
        self._start(self._accept)

    def _start(self, target, *args):
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                if self.refuses:
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    near.close()
                    continue
                far = socket.create_connection(self.target)
            except OSError:
                return
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
                self.pairs.append((near, far))
            self._start(self._pass, near, far, (near, far))
            self._start(self._pass, far, near, (near, far))

    def _pass(self, source, sink, pair):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
                with self.lock:
                    self.passed += len(data)
                    self._since_cut += len(data)
                    due = self.cut_after is not None and self._since_cut >= self.cut_after
                if due:
                    self.cut()
            with self.lock:
                if pair in self.pairs:
                    sink.shutdown(socket.SHUT_WR)  # an orderly end stays one
        except OSError:
            pass

    def cut(self):
        with self.lock:
            pairs, self.pairs = self.pairs, []
            self._since_cut = 0
            self.cuts += bool(pairs)
            for pair in pairs:
                for end in pair:
                    try:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                        end.shutdown(socket.SHUT_RD)  # ends our own recv; close alone would not
                    except OSError:
                        pass
                    end.close()

    def close(self):
        self.listener.close()
        self.cut()

    def wait_connected(self):
        eventually(lambda: self.pairs, 'somebody connects through the proxy')
