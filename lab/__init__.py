"""Two virtual machines, each with a real kernel and an RDMA device (Soft-RoCE), connected to each other. See README.md.

With the checkout on sys.path:
    import lab
    with lab.Pair() as pair:
        server = pair.b.start('rpc-server -H 0.0.0.0')
        server.wait_for('listening')
        code, output = pair.a.run('llama-bench --rpc b:50052 -m models/scribe-5m-q8_0.gguf')
"""
from .backend import Backend, choose
from .channel import Process
from .errors import LabError, MachineGone, TimedOut, Unavailable
from .machine import Machine
from .pair import Config, Pair

__all__ = ['Backend', 'Config', 'LabError', 'Machine', 'MachineGone', 'Pair', 'Process', 'TimedOut', 'Unavailable',
           'choose']
