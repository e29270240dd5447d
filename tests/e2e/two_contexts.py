"""Two models with a context each on one device, in one process, through libllama's C interface.

    two_contexts.py MODEL first|second      which of the two is freed while the other goes on

The device is the first one of GGML_RPC_SERVERS. Prints "equal" if every set of logits is the CPU's own.
"""
import ctypes
import sys

TOKENS = [1, 300, 301, 302, 303, 304, 305, 306]


class ModelParams(ctypes.Structure):
    # What is set here, in llama.h's order; more room than the rest of it needs.
    _fields_ = [('devices', ctypes.c_void_p), ('overrides', ctypes.c_void_p), ('n_gpu_layers', ctypes.c_int32),
                ('rest', ctypes.c_byte * 236)]


class ContextParams(ctypes.Structure):
    _fields_ = [('n_ctx', ctypes.c_uint32), ('n_batch', ctypes.c_uint32), ('rest', ctypes.c_byte * 504)]


class Batch(ctypes.Structure):
    _fields_ = [('n_tokens', ctypes.c_int32), ('token', ctypes.c_void_p), ('embd', ctypes.c_void_p),
                ('pos', ctypes.c_void_p), ('n_seq_id', ctypes.c_void_p), ('seq_id', ctypes.c_void_p),
                ('logits', ctypes.c_void_p)]


ggml = ctypes.CDLL('libggml.so.0', ctypes.RTLD_GLOBAL)
llama = ctypes.CDLL('libllama.so.0')


def function(name, result, *arguments):
    found = getattr(llama, name)
    found.restype, found.argtypes = result, arguments
    return found


default_model_params = function('llama_model_default_params', ModelParams)
default_context_params = function('llama_context_default_params', ContextParams)
load_model = function('llama_model_load_from_file', ctypes.c_void_p, ctypes.c_char_p, ModelParams)
new_context = function('llama_init_from_model', ctypes.c_void_p, ctypes.c_void_p, ContextParams)
free_model = function('llama_model_free', None, ctypes.c_void_p)
free_context = function('llama_free', None, ctypes.c_void_p)
get_vocab = function('llama_model_get_vocab', ctypes.c_void_p, ctypes.c_void_p)
n_vocab = function('llama_vocab_n_tokens', ctypes.c_int32, ctypes.c_void_p)
get_memory = function('llama_get_memory', ctypes.c_void_p, ctypes.c_void_p)
clear_memory = function('llama_memory_clear', None, ctypes.c_void_p, ctypes.c_bool)
one_batch = function('llama_batch_get_one', Batch, ctypes.c_void_p, ctypes.c_int32)
decode = function('llama_decode', ctypes.c_int32, ctypes.c_void_p, Batch)
get_logits = function('llama_get_logits_ith', ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32)


class Model:
    def __init__(self, path, gpu_layers):
        params = default_model_params()
        params.n_gpu_layers = gpu_layers
        self.model = load_model(path.encode(), params)
        assert self.model, 'the model cannot be loaded'
        params = default_context_params()
        params.n_ctx = params.n_batch = 64
        self.context = new_context(self.model, params)
        assert self.context, 'no context'

    def logits(self):
        """After a prompt, then token by token: the same graph again and again."""
        clear_memory(get_memory(self.context), True)
        seen = []
        for part in [TOKENS[:4]] + [[token] for token in TOKENS[4:]]:
            tokens = (ctypes.c_int32 * len(part))(*part)
            assert decode(self.context, one_batch(ctypes.addressof(tokens), len(part))) == 0, 'decode'
            seen.append(get_logits(self.context, -1)[:n_vocab(get_vocab(self.model))])
        return seen

    def free(self):
        free_context(self.context)
        free_model(self.model)


def main(path, freed):
    ggml.ggml_backend_load_all()
    first, second = Model(path, 99), Model(path, 99)
    wanted = first.logits()
    assert all(second.logits() == wanted and first.logits() == wanted for _ in range(2)), 'side by side'
    gone, left = (first, second) if freed == 'first' else (second, first)
    gone.free()
    assert left.logits() == wanted, 'after the other is freed'
    third = Model(path, 99)
    assert third.logits() == wanted and left.logits() == wanted, 'beside a new one'
    left.free()
    assert third.logits() == wanted, 'the new one alone'
    third.free()
    print('equal', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
