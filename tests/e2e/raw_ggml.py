"""A graph of one node on the first device of GGML_RPC_SERVERS, through ggml's C interface, without its scheduler.

    raw_ggml.py weights     a buffer that is marked as one of weights when it has been filled, as whisper.cpp does
    raw_ggml.py pause       2 s between the launch and the read of its result
    raw_ggml.py lost        after SIGUSR1, by when the server's worker has been killed: the tensors are read, and a new
                            back-end computes with the buffer of the old one

Prints one line of JSON: what the functions returned.
"""
import ctypes
import json
import signal
import sys
import time

F32, I32 = 0, 26
WEIGHTS = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
COUNT = 256


class InitParams(ctypes.Structure):
    _fields_ = [('mem_size', ctypes.c_size_t), ('mem_buffer', ctypes.c_void_p), ('no_alloc', ctypes.c_bool)]


ggml = ctypes.CDLL('libggml.so.0')
P = ctypes.c_void_p


def function(name, result, *arguments):
    found = getattr(ggml, name)
    found.restype, found.argtypes = result, arguments
    return found


init = function('ggml_init', P, InitParams)
device_by_name = function('ggml_backend_dev_by_name', P, ctypes.c_char_p)
new_backend = function('ggml_backend_dev_init', P, P, ctypes.c_char_p)
free_backend = function('ggml_backend_free', None, P)
new_tensor = function('ggml_new_tensor_1d', P, P, ctypes.c_int, ctypes.c_int64)
scale = function('ggml_scale', P, P, P, ctypes.c_float)
allocate = function('ggml_backend_alloc_ctx_tensors', P, P, P)
set_tensor = function('ggml_backend_tensor_set', None, P, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t)
get_tensor = function('ggml_backend_tensor_get', None, P, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t)
set_usage = function('ggml_backend_buffer_set_usage', None, P, ctypes.c_int)
new_graph = function('ggml_new_graph', P, P)
expand = function('ggml_build_forward_expand', None, P, P)
launch = function('ggml_backend_graph_compute_async', ctypes.c_int, P, P)
compute = function('ggml_backend_graph_compute', ctypes.c_int, P, P)


def content(tensor):
    data = ctypes.create_string_buffer(4 * COUNT)
    get_tensor(tensor, data, 0, 4 * COUNT)
    return sorted(set(data.raw))


def main(mode):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    ggml.ggml_backend_load_all()
    device = device_by_name(b'RPC0')
    backend = new_backend(device, None)
    context = init(InitParams(1 << 20, None, True))
    numbers, rows = new_tensor(context, F32, COUNT), new_tensor(context, I32, COUNT)
    graph = new_graph(context)
    expand(graph, scale(context, numbers, 2))
    buffer = allocate(context, backend)
    for tensor in (numbers, rows):
        set_tensor(tensor, bytes(range(1, 64, 1)) * 16 + bytes(16), 0, 4 * COUNT)
    if mode == 'weights':
        set_usage(buffer, WEIGHTS)
    said = {'computed': compute(backend, graph)}
    if mode == 'pause':
        said['launched'] = launch(backend, graph)
        time.sleep(2)
        content(numbers)
    if mode == 'lost':
        print('ready', flush=True)
        signal.sigwait({signal.SIGUSR1})
        said['lost'] = compute(backend, graph)
        said['numbers'], said['rows'] = content(numbers), content(rows)
        newer = new_backend(device, None)
        said['newer'] = compute(newer, graph)
        free_backend(newer)
    free_backend(backend)
    print(json.dumps(said), flush=True)


if __name__ == '__main__':
    main(sys.argv[1])
