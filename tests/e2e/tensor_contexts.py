"""Contexts with -sm tensor that compute at the same time in threads of one process, through libllama's C interface.

    tensor_contexts.py MODEL ROUNDS GROUP...

GROUP: a context's servers as numbers of GGML_RPC_SERVERS' devices, such as 0,1.

Each decodes a prompt and then tokens, ROUNDS times. Prints "equal" if the logits of each context are the same in every round.
"""
import ctypes
import sys
import threading

from two_contexts import (TOKENS, Batch, ContextParams, ModelParams, clear_memory, decode, default_context_params,
                          default_model_params, free_context, free_model, get_logits, get_memory, get_vocab, ggml, load_model,
                          n_vocab, new_context, one_batch)

SPLIT_BY_TENSOR = 3
assert Batch and ContextParams and ModelParams

device_by_name = ggml.ggml_backend_dev_by_name
device_by_name.restype, device_by_name.argtypes = ctypes.c_void_p, [ctypes.c_char_p]


def set_flash_attention(params):
    """The last of the four choices whose default is -1, automatic."""
    words = (ctypes.c_int32 * (ctypes.sizeof(params) // 4)).from_buffer(params)
    first = next(i for i in range(len(words)) if list(words[i:i + 4]) == [-1] * 4)
    words[first + 3] = 1


class Context:
    def __init__(self, path, devices):
        names = [b'RPC%d' % number for number in devices]
        self.devices = (ctypes.c_void_p * (len(names) + 1))(*map(device_by_name, names), None)
        assert all(self.devices[:-1]), 'no such device'
        params = default_model_params()
        params.devices = ctypes.addressof(self.devices)
        params.n_gpu_layers = 99
        ctypes.c_int32.from_buffer(params.rest).value = SPLIT_BY_TENSOR
        self.model = load_model(path.encode(), params)
        assert self.model, 'the model cannot be loaded'
        params = default_context_params()
        params.n_ctx = params.n_batch = 64
        set_flash_attention(params)
        self.context = new_context(self.model, params)
        assert self.context, 'no context'

    def logits(self):
        """After a prompt, then token by token. None if a computation fails."""
        clear_memory(get_memory(self.context), True)
        seen = []
        for part in [TOKENS[:4]] + [[token] for token in TOKENS[4:]]:
            tokens = (ctypes.c_int32 * len(part))(*part)
            if decode(self.context, one_batch(ctypes.addressof(tokens), len(part))) != 0:
                return None
            seen.append(get_logits(self.context, -1)[:n_vocab(get_vocab(self.model))])
        return seen

    def free(self):
        free_context(self.context)
        free_model(self.model)


def main(path, rounds, *groups):
    ggml.ggml_backend_load_all()
    contexts = [Context(path, [int(number) for number in group.split(',')]) for group in groups]
    wanted = [context.logits() for context in contexts]
    assert all(wanted), 'decode'
    wrong = []

    def work(context, logits):
        for number in range(int(rounds)):
            if context.logits() != logits:
                wrong.append(number)
                return
    threads = [threading.Thread(target=work, args=pair) for pair in zip(contexts, wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, f'other logits in round {wrong}'
    for context in contexts:
        context.free()
    print('equal', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
