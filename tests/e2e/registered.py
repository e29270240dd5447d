"""Prints, as JSON, the devices in ggml's registry in their order, with what they are called.

    registered.py [ENDPOINT]...     registers these servers as --rpc does

ggml loads its plug-ins twice, as llama.cpp's tools do; a device keeps its address.
"""
import ctypes
import json
import sys

base = ctypes.CDLL('libggml-base.so.0', ctypes.RTLD_GLOBAL)
ggml = ctypes.CDLL('libggml.so.0', ctypes.RTLD_GLOBAL)


def function(library, name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


pointer, text = ctypes.c_void_p, ctypes.c_char_p
count = function(ggml, 'ggml_backend_dev_count', ctypes.c_size_t)
get = function(ggml, 'ggml_backend_dev_get', pointer, ctypes.c_size_t)
register = function(ggml, 'ggml_backend_register', None, pointer)
reg_by_name = function(ggml, 'ggml_backend_reg_by_name', pointer, text)
find_function = function(base, 'ggml_backend_reg_get_proc_address', pointer, pointer, text)
name_of = function(base, 'ggml_backend_dev_name', text, pointer)
description_of = function(base, 'ggml_backend_dev_description', text, pointer)
init = function(base, 'ggml_backend_dev_init', pointer, pointer, pointer)
backend_name = function(base, 'ggml_backend_name', text, pointer)
free_backend = function(base, 'ggml_backend_free', None, pointer)
buffer_type_of = function(base, 'ggml_backend_dev_buffer_type', pointer, pointer)
buffer_type_name = function(base, 'ggml_backend_buft_name', text, pointer)
allocate = function(base, 'ggml_backend_buft_alloc_buffer', pointer, pointer, ctypes.c_size_t)
buffer_name = function(base, 'ggml_backend_buffer_name', text, pointer)
free_buffer = function(base, 'ggml_backend_buffer_free', None, pointer)


def devices():
    return [get(i) for i in range(count())]


def names(device):
    """Of a device that is used too: of all that ggml can be asked for about it."""
    backend, buffer_type = init(device, None), buffer_type_of(device)
    buffer = allocate(buffer_type, 1024)
    found = {'device': name_of(device), 'backend': backend_name(backend),
             'buffer type': buffer_type_name(buffer_type), 'buffer': buffer_name(buffer)}
    free_buffer(buffer)
    free_backend(backend)
    return {what: name.decode() for what, name in found.items()}


def main(endpoints):
    ggml.ggml_backend_load_all()
    first = devices()
    ggml.ggml_backend_load_all()
    assert devices() == first, 'loaded again, they are others'
    if endpoints:
        add_server = ctypes.CFUNCTYPE(pointer, text)(
            find_function(reg_by_name(b'RPC'), b'ggml_backend_rpc_add_server'))
        for endpoint in endpoints:
            register(add_server(endpoint.encode()))
    print(json.dumps([names(device) for device in devices()]), flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
