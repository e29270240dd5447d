"""Tests whether the lab works on this computer, and how fast."""
import re
import time

from .errors import LabError

# The server runs in b. It echoes `rounds` messages of a, then receives `total` bytes.
TCP = '''
import socket, sys, time
rounds, length, total = 500, 64, 32 << 20
if sys.argv[1] == 'serve':
    with socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        print('port', listener.getsockname()[1], flush=True)
        peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(rounds):
        peer.sendall(peer.recv(length, socket.MSG_WAITALL))
    left = total
    while left:
        left -= len(peer.recv(min(left, 1 << 20)))
    peer.sendall(b'.')
else:
    peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    begin = time.monotonic()
    for _ in range(rounds):
        peer.sendall(bytes(length))
        peer.recv(length, socket.MSG_WAITALL)
    middle = time.monotonic()
    peer.sendall(bytes(total))
    peer.recv(1)
    end = time.monotonic()
    print(f'{(middle - begin) / rounds * 1e6:.0f} us for {length} B and back, {total / (end - middle) / 1e6:.0f} MB/s')
'''


def tcp(pair, address):
    script = pair.shared / 'tcp.py'
    script.write_text(TCP)
    server = pair.b.start(['python3', script, 'serve'])
    port = server.wait_for(re.compile(r'port (\d+)'))[1]
    return pair.a.run(['python3', script, address, port], check=True)[1].strip()


PERFTEST_PORT = 18515  # also of ibv_rc_pingpong


def perftest(pair, command):
    """Runs a program of perftest between both machines; returns the last row of its table."""
    for _ in range(5):
        server = pair.b.start(f'stdbuf -oL {command}')
        pair.b.wait_listening(PERFTEST_PORT)
        code, output = pair.a.run(f'{command} {pair.b.ip}', timeout=120)
        server.wait()
        rows = re.findall(r'^ \d+ +\d+ .*$', output, re.MULTILINE)
        if code == 0 and rows:
            return rows[-1].split()
        if "Can't produce a report" not in output:  # calibrating its clock fails on a busy computer
            break
    raise LabError(f'{command} returned {code}; it printed:\n{output}')


def main(pair):
    begin = time.monotonic()
    with pair:
        print(f'machines     {pair.backend.name} ({pair.backend.why})')
        print(f'ready        {time.monotonic() - begin:.2f} s')
        for machine in (pair.a, pair.b):
            _, info = machine.run('uname -r; ibv_devinfo -v 2>&1 | grep -E "hca_id|state:|active_mtu|GID"', check=True)
            print(f'machine {machine.name}   ', ', '.join(' '.join(line.split()) for line in info.splitlines()))
        _, ping = pair.a.run('ping -c 3 -i 0.2 -q b && ping -4 -c 3 -i 0.2 -q b', check=True)
        print('ping        ', ' ms, '.join(re.findall(r'[\d.]+/([\d.]+)/[\d.]+/[\d.]+ ms', ping)), 'ms (IPv6, IPv4)')
        print('TCP, IPv4   ', tcp(pair, pair.b.ip))
        print('TCP, IPv6   ', tcp(pair, pair.b.ip6))
        if 'rxe0' in pair.a.run('rdma link')[1] and 'rxe0' in pair.b.run('rdma link')[1]:
            row = perftest(pair, 'ib_send_lat -e -x 1 -n 500')
            print(f'ib_send_lat  {row[4]} us one way, median of {row[1]}, {row[0]} B, sleeping on completion events')
            row = perftest(pair, 'ib_send_bw -e -x 1 -s 65536 -n 300')
            print(f'ib_send_bw   {row[3]} MiB/s, {row[0]} B messages')
            counters = pair.a.counters()
            print(f'packets      {counters["sent_pkts"]} sent, {counters["rcvd_pkts"]} received by a\'s rxe0')
            if counters['sent_pkts'] < 300:
                raise LabError('perftest succeeded, but the RDMA device sent hardly any packets')
        ending = time.monotonic()
    print(f'shutdown     {time.monotonic() - ending:.2f} s; total {time.monotonic() - begin:.1f} s')
    return 0
