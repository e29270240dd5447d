#!/usr/bin/env python3
"""Queries whether the device of an RPC server supports an op that CPUs lack, and computes it if so.

    unsupported_op.py HOST:PORT

For experiments/faults.py: an unmodified ggml program, through libggml's C interface. The op is CPY from F32 to IQ2_XXS, which
has no quantizer on CPUs. Prints the result, and then that of a sum on the same device."""
import ctypes
import sys

F32, IQ2_XXS = 0, 16


class InitParams(ctypes.Structure):
    _fields_ = [('mem_size', ctypes.c_size_t), ('mem_buffer', ctypes.c_void_p), ('no_alloc', ctypes.c_bool)]


base = ctypes.CDLL('libggml-base.so.0', ctypes.RTLD_GLOBAL)
ggml = ctypes.CDLL('libggml.so.0')
pointer = ctypes.c_void_p


def function(library, name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


load_all = function(ggml, 'ggml_backend_load_all', None)
reg_by_name = function(ggml, 'ggml_backend_reg_by_name', pointer, ctypes.c_char_p)
proc_address = function(base, 'ggml_backend_reg_get_proc_address', pointer, pointer, ctypes.c_char_p)
reg_device = function(base, 'ggml_backend_reg_dev_get', pointer, pointer, ctypes.c_size_t)
init_device = function(base, 'ggml_backend_dev_init', pointer, pointer, ctypes.c_char_p)
supports_op = function(base, 'ggml_backend_supports_op', ctypes.c_bool, pointer, pointer)
alloc_tensors = function(base, 'ggml_backend_alloc_ctx_tensors', pointer, pointer, pointer)
graph_compute = function(base, 'ggml_backend_graph_compute', ctypes.c_int, pointer, pointer)
tensor_set = function(base, 'ggml_backend_tensor_set', None, pointer, pointer, ctypes.c_size_t, ctypes.c_size_t)
tensor_get = function(base, 'ggml_backend_tensor_get', None, pointer, pointer, ctypes.c_size_t, ctypes.c_size_t)
init = function(base, 'ggml_init', pointer, InitParams)
new_tensor = function(base, 'ggml_new_tensor_1d', pointer, pointer, ctypes.c_int, ctypes.c_int64)
new_graph = function(base, 'ggml_new_graph', pointer, pointer)
expand = function(base, 'ggml_build_forward_expand', None, pointer, pointer)
cpy = function(base, 'ggml_cpy', pointer, pointer, pointer, pointer)
add = function(base, 'ggml_add', pointer, pointer, pointer, pointer)


def compute(backend, op, result_type):
    """Computes op(256 ones, another tensor) if the device supports it. Returns its status or value."""
    context = init(InitParams(1 << 20, None, True))
    one, other = new_tensor(context, F32, 256), new_tensor(context, result_type, 256)
    result = op(context, one, other)
    if not supports_op(backend, result):
        return 'not supported'
    graph = new_graph(context)
    expand(graph, result)
    assert alloc_tensors(context, backend)
    ones = (ctypes.c_float * 256)(*[1] * 256)
    tensor_set(one, ones, 0, ctypes.sizeof(ones))
    if result_type == F32:
        tensor_set(other, ones, 0, ctypes.sizeof(ones))
    status = graph_compute(backend, graph)
    got = (ctypes.c_float * 4)()
    tensor_get(result, got, 0, 16)
    return f'status {status}' if result_type != F32 or status != 0 else f'{got[0]:g}'


def main(endpoint):
    load_all()
    registry = reg_by_name(b'RPC')
    add_server = ctypes.CFUNCTYPE(pointer, ctypes.c_char_p)(proc_address(registry, b'ggml_backend_rpc_add_server'))
    backend = init_device(reg_device(add_server(endpoint.encode()), 0), None)
    print('op:', compute(backend, cpy, IQ2_XXS), flush=True)
    print('sum:', compute(backend, add, F32), flush=True)


if __name__ == '__main__':
    main(sys.argv[1])
