"""Makes a back-end on the first device of GGML_RPC_SERVERS and frees it. Then waits for SIGUSR1 and allocates memory.

    idle_backend.py silent|query        query: asks for the device's memory before it frees the back-end

Prints "freed", then "allocated"."""
import ctypes
import signal
import sys

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ggml = ctypes.CDLL('libggml.so.0')
P = ctypes.c_void_p
for name in ('ggml_backend_dev_by_name', 'ggml_backend_dev_init', 'ggml_backend_alloc_buffer'):
    getattr(ggml, name).restype = P
ggml.ggml_backend_load_all()
device = P(ggml.ggml_backend_dev_by_name(b'RPC0'))
idle = P(ggml.ggml_backend_dev_init(device, None))
if sys.argv[1] == 'query':
    ggml.ggml_backend_dev_memory(device, ctypes.byref(ctypes.c_size_t()), ctypes.byref(ctypes.c_size_t()))
ggml.ggml_backend_free(idle)
print('freed', flush=True)
signal.sigwait([signal.SIGUSR1])
backend = P(ggml.ggml_backend_dev_init(device, None))
buffer = P(ggml.ggml_backend_alloc_buffer(backend, ctypes.c_size_t(1 << 20)))
assert buffer.value, 'no memory'
ggml.ggml_backend_buffer_free(buffer)
ggml.ggml_backend_free(backend)
print('allocated', flush=True)
