"""Networks that fail without a word: a cable that is pulled out, a path that forgets its connections."""
import re
import time

import pytest

from namespaces import CABLE, CLIENT, SERVER, Namespaces
from processes import Server
from system import MODEL, PROMPT, RPC_SERVER, eventually

TOKENS = 1000


@pytest.fixture
def networks():
    made = Namespaces()
    yield made
    made.close()


def start_server(lab, networks):
    server = lab.start('rpc-server', [*networks.server_prefix(), RPC_SERVER, '-H', SERVER, '-p', 0, '-t', 1],
                       tool=False, kind=Server)
    server.endpoint = server.wait_for(r'  endpoint       : (\S+)\n').group(1)
    server.wait_for(r'  sessions       : .*\n')
    return server


def generate(lab, servers, prefix=()):
    return lab.start('llama-completion',
                     [*prefix, 'llama-completion', '-m', MODEL, '-p', PROMPT, '-n', TOKENS, '-c', 256, '--context-shift',
                      '--ignore-eos', '--temp', 0, '-t', 1, '-no-cnv', '--no-warmup', '--no-display-prompt', '--simple-io',
                      *lab.where(servers)], ours=bool(servers))


def generating(lab, networks, server):
    """A client in the middle of its text."""
    client = generate(lab, [server], networks.client_prefix())
    eventually(lambda: len(client.out()) > 100 or not client.running(), 'it says something')
    assert client.running(), client.log()
    return client


def same_text(lab, client):
    """The rest comes, and is what this machine's own CPU says."""
    done = lab.expect_exit(client, 60)
    local = lab.expect_exit(generate(lab, []))
    assert done.out == local.out and len(done.out) > 1000
    return done


@pytest.mark.extra
@pytest.mark.parametrize('side, outage', [('client', 10), ('server', 20)])
def test_cable_pulled_out(lab, networks, side, outage):
    server = start_server(lab, networks)
    client = generating(lab, networks, server)
    pull = networks.on_client if side == 'client' else networks.on_server
    pull(f'ip link set {CABLE} down')
    before = len(client.out())
    time.sleep(outage)
    assert client.running() and len(client.out()) < before + 1000, 'nothing came meanwhile'
    pull(f'ip link set {CABLE} up')
    done = same_text(lab, client)
    assert 'is lost' not in done.log
    # TCP itself bears a short one.
    assert bool(re.search('lost .*; reconnected over tcp', done.log)) == (outage > 15)


def test_path_that_forgets_the_connections(lab, networks):
    """The client's machine gets another address: what was connected from the old one is silent for good."""
    server = start_server(lab, networks)
    client = generating(lab, networks, server)
    networks.on_client(f'ip address add 10.78.0.9/24 dev {CABLE}')
    networks.on_client(f'ip address delete {CLIENT}/24 dev {CABLE}')
    networks.on_client(f'ip address replace 10.78.0.9/24 dev {CABLE}')
    begin = time.monotonic()
    server.wait_for('Connected again: 10.78.0.9', 30)
    assert time.monotonic() - begin > 10, 'a network may be silent for some seconds'
    done = same_text(lab, client)
    assert re.search(r'lost \(the network has been silent for [^)]+\); reconnected over tcp', done.log)
