"""The settings of a connection's packets: both ends use the same traffic class and log it."""
import pytest

from conftest import PORT, Lab, not_emulated

EP = f'10.77.0.1:{PORT}'

# Prints the traffic classes of the RoCEv2 packets that this machine receives until the file exists.
SNIFFER = '''
import os, socket, sys
packets, classes = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP), set()
packets.settimeout(.1)
print('ready', flush=True)
while not os.path.exists(sys.argv[1]):
    try:
        packet = packets.recv(65536)
    except TimeoutError:
        continue
    header = (packet[0] & 15) * 4
    if int.from_bytes(packet[header + 2:header + 4], 'big') == 4791:
        classes.add(packet[1])
print('classes', sorted(classes))
'''


@not_emulated
@pytest.mark.parametrize('server, client, expected', [
    ({}, {}, 0),
    ({}, {'GGML_RDMA_TC': '32'}, 32),
    ({'GGML_RDMA_TC': '106'}, {'GGML_RDMA_TC': '32', 'GGML_RDMA_SL': '3'}, 106),
])
def test_traffic_class(rig: Lab, local, server, client, expected):
    script, stop = rig.pair.shared / 'sniffer.py', rig.pair.shared / f'stop-{expected}'
    script.write_text(SNIFFER)
    sniffers = [machine.start(f'exec python3 {script} {stop}') for machine in (rig.server_machine, rig.client_machine)]
    for sniffer in sniffers:
        sniffer.wait_for('ready')
    rig.server(env={'GGML_RPC_DEBUG': '1', **server})
    logits, output = rig.logits(EP, env={'GGML_RPC_DEBUG': '1', **client})
    stop.touch()
    assert logits == local
    assert 'transport rdma' in output
    for sniffer in sniffers:
        assert sniffer.wait(20) == 0, sniffer.output()
        assert f'classes [{expected}]' in sniffer.output()
    level = client.get('GGML_RDMA_SL', 0)
    assert f'RDMA path: traffic class {expected}, service level {level}, partition key 0, with a GRH' in output
    assert f'RDMA path: traffic class {expected}, service level 0, partition key 0, with a GRH' in rig.log()


def test_partition_key_that_is_not_there(rig, local):
    rig.server()
    logits, output = rig.logits(EP, env={'GGML_RDMA_PKEY': '500'})
    assert logits == local
    assert 'transport tcp (GGML_RDMA_PKEY=500 is beyond the 1 partition keys of rxe0 port 1' in output
