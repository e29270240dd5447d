#!/usr/bin/env python3
"""Writes small random-weight GGUF models for interop tests, or one llama of a chosen size for benchmarks.

    make_models.py DIR [--only NAME ...] [--seed N]      every test model, DIR/NAME.gguf
    make_models.py --list                                their names and what each is for
    make_models.py --bench --out FILE [--layers N --d N --heads N --kv-heads N --ff N --vocab N --ctx N --type T]

Needs Debian's python3-gguf and python3-numpy. The same arguments always give the same weights: each tensor has its own
random stream, seeded by the model's seed and the tensor's name. At most one encoded tensor is in memory at a time.
"""
import argparse
import math
import zlib
from pathlib import Path

import gguf
import numpy as np

T = gguf.GGMLQuantizationType
TYPES = {'f32': T.F32, 'f16': T.F16, 'bf16': T.BF16, 'q8_0': T.Q8_0, 'q4_0': T.Q4_0, 'mxfp4': T.MXFP4,
         'q4_k': T.Q4_K, 'q6_k': T.Q6_K}
CHUNK_ELEMENTS = 1 << 22  # float32 values drawn at a time: bounds the memory of large tensors
RESERVED_TOKENS = 3 + 256  # <unk> <s> </s>, then one token a byte


# --- tokenizer -------------------------------------------------------------------------------------------------------

def add_tokenizer(writer, vocab):
    """A SentencePiece vocabulary that needs no other file: bytes, characters, two-letter pieces, then unused words."""
    vowels, consonants = 'aeiou', 'bcdfghjklmnpqrstvwxyz'
    letters = 'abcdefghijklmnopqrstuvwxyz'
    pieces = ['\u2581', '\n', *letters, *letters.upper(), *'0123456789', *".,:;!?'-()"]
    pieces += ['\u2581' + c for c in letters]
    pieces += [c + v for v in vowels for c in consonants] + [v + c for v in vowels for c in consonants]
    normal = vocab - RESERVED_TOKENS
    if normal < 1:
        raise SystemExit(f'vocabulary of {vocab}: at least {RESERVED_TOKENS + 1} tokens are needed')
    pieces = (pieces + [f'\u2581x{i}' for i in range(normal - len(pieces))])[:normal]

    kind = gguf.TokenType
    tokens = ['<unk>', '<s>', '</s>'] + [f'<0x{b:02X}>' for b in range(256)] + pieces
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256 + [kind.NORMAL] * normal
    writer.add_tokenizer_model('llama')
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * RESERVED_TOKENS + [-float(i) for i in range(normal)])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


# --- random weights in ggml's types ----------------------------------------------------------------------------------

def f16_bytes(values):
    return np.asarray(values, dtype=np.float16).reshape(-1, 1).view(np.uint8)


def random_q4_k(rng, rows, cols, std):
    """Rows of Q4_K blocks (f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles).

    Python's gguf cannot encode K-quants, so the blocks themselves are drawn. Each sub-block's minimum equals its scale
    and dmin is 7.5 d, hence w = d * scale * (q - 7.5): zero mean.
    """
    n = rows * cols // 256
    scale = rng.integers(32, 64, (n, 8), dtype=np.uint8)
    low, high = scale[:, :4], scale[:, 4:]
    packed = low | (high >> 4) << 6
    d = std / (4.61 * 48.4)  # the deviations of q and (root mean square) of scale
    blocks = np.concatenate([f16_bytes(np.full(n, d)), f16_bytes(np.full(n, 7.5 * d)), packed, packed,
                             (high & 15) * np.uint8(17), rng.integers(0, 256, (n, 128), dtype=np.uint8)], axis=1)
    return blocks.reshape(rows, -1)


def random_q6_k(rng, rows, cols, std):
    """Rows of Q6_K blocks (192 bytes of 6-bit values, 16 int8 scales, f16 d): w = d * scale * (q - 32)."""
    n = rows * cols // 256
    scale = rng.integers(64, 128, (n, 16), dtype=np.int8) * rng.choice(np.array([-1, 1], np.int8), (n, 16))
    d = std / (18.5 * 97.0)
    blocks = np.concatenate([rng.integers(0, 256, (n, 192), dtype=np.uint8), scale.view(np.uint8),
                             f16_bytes(np.full(n, d))], axis=1)
    return blocks.reshape(rows, -1)


def random_rows(rng, rows, cols, std, qtype):
    if qtype == T.Q4_K:
        return random_q4_k(rng, rows, cols, std)
    if qtype == T.Q6_K:
        return random_q6_k(rng, rows, cols, std)
    x = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(std)
    return gguf.quantize(x, qtype)


class Model:
    """Collects metadata and tensor descriptions; write() then draws, encodes and writes one tensor after another.

    Shapes are numpy's (rows, columns): ggml's ne read backwards.
    """

    def __init__(self, path, arch, seed, *, layers, d, vocab=512, ctx=4096, weights='f16', tied=False,
                 embedding_std=0.1):
        self.path, self.seed, self.d, self.vocab = path, seed, d, vocab
        self.weights = weights
        self.tensors = []
        w = self.kv = gguf.GGUFWriter(path, arch)
        w.add_name(path.stem)
        w.add_vocab_size(vocab)
        w.add_context_length(ctx)
        w.add_embedding_length(d)
        w.add_block_count(layers)
        w.add_layer_norm_rms_eps(1e-5)
        add_tokenizer(w, vocab)
        for name in ['token_embd'] if tied else ['token_embd', 'output']:
            self._declare(name + '.weight', (vocab, d), self._type(name, None), self._token_rows, embedding_std)

    def attention(self, heads, kv_heads, head_dim, rope_dim=None):
        w = self.kv
        w.add_head_count(heads)
        w.add_head_count_kv(kv_heads)
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
        w.add_rope_dimension_count(rope_dim or head_dim)
        w.add_rope_freq_base(10000.0)

    def attention_weights(self, p, heads, kv_heads, head_dim, query_rows=0):
        self.mat(p + 'attn_q.weight', query_rows or heads * head_dim, self.d, 1.5)
        self.mat(p + 'attn_k.weight', kv_heads * head_dim, self.d, 1.5)
        self.mat(p + 'attn_v.weight', kv_heads * head_dim, self.d)
        self.mat(p + 'attn_output.weight', self.d, heads * head_dim, 2)

    def feed_forward(self, p, ff, suffix='', experts=0):
        self.mat(f'{p}ffn_gate{suffix}.weight', ff, self.d, experts=experts)
        self.mat(f'{p}ffn_up{suffix}.weight', ff, self.d, experts=experts)
        self.mat(f'{p}ffn_down{suffix}.weight', self.d, ff, 4, experts=experts)

    def mat(self, name, rows, cols, gain=1.0, *, experts=0, weights=None):
        """A matrix that keeps the deviation of a normalised input, times gain. weights overrides the model's type."""
        shape = (experts, rows, cols) if experts else (rows, cols)
        self._declare(name, shape, self._type(name, weights), self._matrix, gain / math.sqrt(cols))

    def vec(self, name, shape, mean=1.0, std=0.1):
        """Small float32 parameters: norms (the defaults), biases, decays."""
        shape = (shape,) if isinstance(shape, int) else shape
        self._declare(name, shape, T.F32,
                      lambda rng, s, _q, dev: rng.standard_normal(s, dtype=np.float32) * np.float32(dev)
                      + np.float32(mean), std)

    def range(self, name, shape, low, high):
        """float32 parameters spread evenly between two bounds, e.g. decays that must keep their sign."""
        shape = (shape,) if isinstance(shape, int) else shape
        self._declare(name, shape, T.F32, lambda rng, s, _q, _d: rng.uniform(low, high, s).astype(np.float32), 0.0)

    def write(self):
        w = self.kv
        for name, shape, qtype, _, _ in self.tensors:
            block, size = gguf.GGML_QUANT_SIZES[qtype]
            if shape[-1] % block:
                raise SystemExit(f'{self.path}: {name}: rows of {shape[-1]} are not whole blocks of {block}')
            w.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * size, raw_dtype=qtype)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_ti_data_to_file()
        for name, shape, qtype, draw, std in self.tensors:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            w.write_tensor_data(draw(rng, shape, qtype, std))
        w.close()

    def _declare(self, name, shape, qtype, draw, std):
        self.tensors.append((name, shape, qtype, draw, std))

    def _type(self, name, weights):
        if weights is None:
            weights = self.weights
        if callable(weights):
            weights = weights(name)
        return TYPES[weights]

    @staticmethod
    def _matrix(rng, shape, qtype, std):
        rows, cols = math.prod(shape[:-1]), shape[-1]
        block, size = gguf.GGML_QUANT_SIZES[qtype]
        out = np.empty((rows, cols // block * size), dtype=np.uint8)
        step = max(1, CHUNK_ELEMENTS // cols)
        for row in range(0, rows, step):
            n = min(step, rows - row)
            out[row:row + n] = random_rows(rng, n, cols, std, qtype).view(np.uint8)
        return out

    @classmethod
    def _token_rows(cls, rng, shape, qtype, std):
        """Control and byte tokens get small rows, so that greedy decoding picks printable ones and never ends early."""
        vocab, d = shape
        return np.concatenate([cls._matrix(rng, (RESERVED_TOKENS, d), qtype, std * 0.05),
                               cls._matrix(rng, (vocab - RESERVED_TOKENS, d), qtype, std)])


# --- attention models ------------------------------------------------------------------------------------------------

def llama(path, seed, *, layers=3, d=128, heads=4, kv_heads=2, ff=256, experts=0, **shape):
    head_dim = d // heads
    m = Model(path, 'llama', seed, layers=layers, d=d, **shape)
    m.attention(heads, kv_heads, head_dim)
    m.kv.add_feed_forward_length(ff)
    if experts:
        m.kv.add_expert_count(experts)
        m.kv.add_expert_used_count(2)
    for p in (f'blk.{i}.' for i in range(layers)):
        m.vec(p + 'attn_norm.weight', d)
        m.attention_weights(p, heads, kv_heads, head_dim)
        m.vec(p + 'ffn_norm.weight', d)
        if experts:
            m.mat(p + 'ffn_gate_inp.weight', experts, d, 2, weights='f32')
        m.feed_forward(p, ff, '_exps' if experts else '', experts)
    m.vec('output_norm.weight', d)
    m.write()


def q4_k_m(name):
    """The mixture that the Q4_K_M recipe has: Q6_K for the token rows, the values and the down projections."""
    return 'q6_k' if any(part in name for part in ('token_embd', 'output.weight', 'attn_v', 'ffn_down')) else 'q4_k'


def qwen2moe(path, seed):
    layers, d, heads, kv_heads, experts, ff = 2, 128, 4, 2, 8, 64
    m = Model(path, 'qwen2moe', seed, layers=layers, d=d)
    m.attention(heads, kv_heads, d // heads)
    m.kv.add_feed_forward_length(2 * ff)
    m.kv.add_expert_count(experts)
    m.kv.add_expert_used_count(3)
    m.kv.add_expert_feed_forward_length(ff)
    m.kv.add_expert_shared_feed_forward_length(2 * ff)
    for p in (f'blk.{i}.' for i in range(layers)):
        m.vec(p + 'attn_norm.weight', d)
        m.attention_weights(p, heads, kv_heads, d // heads)
        m.vec(p + 'attn_q.bias', d, 0.0)
        m.vec(p + 'attn_k.bias', kv_heads * d // heads, 0.0)
        m.vec(p + 'attn_v.bias', kv_heads * d // heads, 0.0)
        m.vec(p + 'ffn_norm.weight', d)
        m.mat(p + 'ffn_gate_inp.weight', experts, d, 2, weights='f32')
        m.feed_forward(p, ff, '_exps', experts)
        m.vec(p + 'ffn_gate_inp_shexp.weight', d, 0.0)
        m.feed_forward(p, 2 * ff, '_shexp')
    m.vec('output_norm.weight', d)
    m.write()


def gpt_oss(path, seed):
    layers, d, heads, kv_heads, head_dim, experts, ff = 2, 128, 4, 2, 32, 4, 96
    m = Model(path, 'gpt-oss', seed, layers=layers, d=d)
    m.attention(heads, kv_heads, head_dim)
    m.kv.add_sliding_window(24)
    m.kv.add_feed_forward_length(ff)
    m.kv.add_expert_count(experts)
    m.kv.add_expert_used_count(2)
    m.kv.add_expert_feed_forward_length(ff)
    for p in (f'blk.{i}.' for i in range(layers)):
        m.vec(p + 'attn_norm.weight', d)
        m.attention_weights(p, heads, kv_heads, head_dim)
        for part, rows in (('q', heads * head_dim), ('k', kv_heads * head_dim), ('v', kv_heads * head_dim),
                           ('output', d)):
            m.vec(f'{p}attn_{part}.bias', rows, 0.0)
        m.vec(p + 'attn_sinks.weight', heads, 0.0, 1.0)
        m.vec(p + 'post_attention_norm.weight', d)
        m.mat(p + 'ffn_gate_inp.weight', experts, d, 2, weights='f32')
        m.vec(p + 'ffn_gate_inp.bias', experts, 0.0)
        for part, rows, cols, gain in (('gate', ff, d, 1), ('up', ff, d, 1), ('down', d, ff, 2)):
            m.mat(f'{p}ffn_{part}_exps.weight', rows, cols, gain, experts=experts, weights='mxfp4')
            m.vec(f'{p}ffn_{part}_exps.bias', (experts, rows), 0.0)
    m.vec('output_norm.weight', d)
    m.write()


def gemma2(path, seed):
    layers, d, heads, kv_heads, head_dim, ff = 4, 96, 4, 2, 32, 192
    m = Model(path, 'gemma2', seed, layers=layers, d=d, tied=True)
    m.attention(heads, kv_heads, head_dim)
    m.kv.add_feed_forward_length(ff)
    m.kv.add_sliding_window(24)
    m.kv.add_attn_logit_softcapping(50.0)
    m.kv.add_final_logit_softcapping(30.0)
    for p in (f'blk.{i}.' for i in range(layers)):
        for norm in ('attn_norm', 'ffn_norm'):
            m.vec(f'{p}{norm}.weight', d)
        for norm in ('post_attention_norm', 'post_ffw_norm'):  # large: else the tied output repeats its input
            m.vec(f'{p}{norm}.weight', d, 3.0, 0.3)
        m.attention_weights(p, heads, kv_heads, head_dim)
        m.feed_forward(p, ff)
    m.vec('output_norm.weight', d)
    m.write()


# --- recurrent and hybrid models -------------------------------------------------------------------------------------

def mamba(path, seed):
    layers, d, state, kernel, rank = 2, 128, 16, 4, 8
    inner = 2 * d  # the only expansion that llama.cpp takes
    m = Model(path, 'mamba', seed, layers=layers, d=d)
    m.kv.add_feed_forward_length(0)
    m.kv.add_head_count(0)
    m.kv.add_ssm_conv_kernel(kernel)
    m.kv.add_ssm_inner_size(inner)
    m.kv.add_ssm_state_size(state)
    m.kv.add_ssm_time_step_rank(rank)
    for p in (f'blk.{i}.' for i in range(layers)):
        m.vec(p + 'attn_norm.weight', d)
        m.mat(p + 'ssm_in.weight', 2 * inner, d, 2)
        m.vec(p + 'ssm_conv1d.weight', (inner, kernel), 0.0, 0.5)
        m.vec(p + 'ssm_conv1d.bias', inner, 0.0)
        m.mat(p + 'ssm_x.weight', rank + 2 * state, inner, 2)
        m.mat(p + 'ssm_dt.weight', inner, rank)
        m.range(p + 'ssm_dt.bias', inner, -3.0, 0.0)
        m.range(p + 'ssm_a', (inner, state), -4.0, -0.2)
        m.vec(p + 'ssm_d', inner)
        m.mat(p + 'ssm_out.weight', d, inner, 3)
    m.vec('output_norm.weight', d)
    m.write()


def mamba2(path, seed):
    layers, d, state, kernel, heads, groups = 2, 128, 32, 4, 8, 2
    inner = 2 * d
    conv = inner + 2 * groups * state
    m = Model(path, 'mamba2', seed, layers=layers, d=d)
    m.kv.add_feed_forward_length(0)
    m.kv.add_head_count(0)
    m.kv.add_ssm_conv_kernel(kernel)
    m.kv.add_ssm_inner_size(inner)
    m.kv.add_ssm_state_size(state)
    m.kv.add_ssm_time_step_rank(heads)
    m.kv.add_ssm_group_count(groups)
    for p in (f'blk.{i}.' for i in range(layers)):
        m.vec(p + 'attn_norm.weight', d)
        m.mat(p + 'ssm_in.weight', inner + conv + heads, d, 2)
        m.vec(p + 'ssm_conv1d.weight', (conv, kernel), 0.0, 0.5)
        m.vec(p + 'ssm_conv1d.bias', conv, 0.0)
        m.range(p + 'ssm_dt.bias', heads, -3.0, 0.0)
        m.range(p + 'ssm_a', (heads, 1), -4.0, -0.2)
        m.vec(p + 'ssm_d', (heads, 1))
        m.vec(p + 'ssm_norm.weight', (groups, inner // groups))
        m.mat(p + 'ssm_out.weight', d, inner, 3)
    m.vec('output_norm.weight', d)
    m.write()


def rwkv7(path, seed):
    layers, d, head, ff, rank = 2, 128, 64, 256, 16  # heads of 64: see README.md
    m = Model(path, 'rwkv7', seed, layers=layers, d=d)
    m.kv.add_layer_norm_eps(1e-5)
    m.kv.add_feed_forward_length(ff)
    m.kv.add_head_count(0)
    m.kv.add_wkv_head_size(head)
    m.kv.add_decay_lora_rank(rank)
    m.kv.add_iclr_lora_rank(rank)
    m.kv.add_value_residual_mix_lora_rank(rank)
    m.kv.add_gate_lora_rank(rank)

    def layer_norm(name):
        m.vec(name + '.weight', d)
        m.vec(name + '.bias', d, 0.0)

    layer_norm('token_embd_norm')
    for p in (f'blk.{i}.' for i in range(layers)):
        for name in ('attn_norm', 'attn_norm_2', 'time_mix_ln'):
            layer_norm(p + name)
        m.range(p + 'time_mix_lerp_fused.weight', (6, 1, 1, d), 0.0, 1.0)
        for part, bias in (('w', -1.0), ('a', 0.0), ('v', 0.0)):  # decay, in-context rate, value residual
            m.vec(f'{p}time_mix_{part}0.weight', d, bias, 0.5)
        for part in 'wavg':
            m.mat(f'{p}time_mix_{part}1.weight', rank, d)
            m.mat(f'{p}time_mix_{part}2.weight', d, rank)
        for part in ('k_k', 'k_a'):
            m.vec(f'{p}time_mix_{part}.weight', d)
        m.vec(p + 'time_mix_r_k.weight', d, 0.0, 0.3)
        for part in ('key', 'value', 'receptance'):
            m.mat(f'{p}time_mix_{part}.weight', d, d)
        m.mat(p + 'time_mix_output.weight', d, d, 3)
        m.range(p + 'channel_mix_lerp_k.weight', (1, 1, d), 0.0, 1.0)
        m.mat(p + 'channel_mix_key.weight', ff, d)
        m.mat(p + 'channel_mix_value.weight', d, ff, 2)
    layer_norm('output_norm')
    m.write()


def qwen35(path, seed):
    layers, d, heads, kv_heads, head_dim, ff = 4, 128, 4, 2, 32, 192
    state, key_heads, value_heads, kernel = 32, 2, 4, 4
    inner = state * value_heads
    conv = 2 * state * key_heads + inner
    m = Model(path, 'qwen35', seed, layers=layers, d=d, tied=True)
    m.attention(heads, kv_heads, head_dim, rope_dim=head_dim // 2)
    m.kv.add_rope_dimension_sections([4, 2, 2, 0])
    m.kv.add_feed_forward_length(ff)
    m.kv.add_full_attention_interval(4)
    m.kv.add_ssm_conv_kernel(kernel)
    m.kv.add_ssm_inner_size(inner)
    m.kv.add_ssm_state_size(state)
    m.kv.add_ssm_time_step_rank(value_heads)
    m.kv.add_ssm_group_count(key_heads)
    for i in range(layers):
        p = f'blk.{i}.'
        m.vec(p + 'attn_norm.weight', d)
        m.vec(p + 'post_attention_norm.weight', d)
        if i % 4 == 3:
            gated = 2 * heads * head_dim  # each head's query, then its output gate
            m.attention_weights(p, heads, kv_heads, head_dim, query_rows=gated)
            m.vec(p + 'attn_q_norm.weight', head_dim)
            m.vec(p + 'attn_k_norm.weight', head_dim)
        else:
            m.mat(p + 'attn_qkv.weight', conv, d)
            m.mat(p + 'attn_gate.weight', inner, d)
            m.vec(p + 'ssm_conv1d.weight', (conv, kernel), 0.0, 0.5)
            m.range(p + 'ssm_dt.bias', value_heads, -3.0, 0.0)
            m.range(p + 'ssm_a', value_heads, -4.0, -0.2)
            m.mat(p + 'ssm_beta.weight', value_heads, d)
            m.mat(p + 'ssm_alpha.weight', value_heads, d)
            m.vec(p + 'ssm_norm.weight', state)
            m.mat(p + 'ssm_out.weight', d, inner, 3)
        m.feed_forward(p, ff)
    m.vec('output_norm.weight', d)
    m.write()


def lfm2(path, seed):
    layers, d, heads, kv_heads, ff, kernel = 4, 128, 4, 2, 192, 3
    attention = [False, True, False, True]
    m = Model(path, 'lfm2', seed, layers=layers, d=d, tied=True)
    m.attention(heads, [kv_heads if a else 0 for a in attention], d // heads)
    m.kv.add_feed_forward_length(ff)
    m.kv.add_shortconv_l_cache(kernel)
    for i, with_attention in enumerate(attention):
        p = f'blk.{i}.'
        m.vec(p + 'attn_norm.weight', d)
        if with_attention:
            m.attention_weights(p, heads, kv_heads, d // heads)
            m.vec(p + 'attn_q_norm.weight', d // heads)
            m.vec(p + 'attn_k_norm.weight', d // heads)
        else:
            m.vec(p + 'shortconv.conv.weight', (d, kernel), 0.0, 0.6)
            m.mat(p + 'shortconv.in_proj.weight', 3 * d, d)
            m.mat(p + 'shortconv.out_proj.weight', d, d, 2)
        m.vec(p + 'ffn_norm.weight', d)
        m.feed_forward(p, ff)
    m.vec('token_embd_norm.weight', d)  # the output norm, by lfm2's name for it
    m.write()


# The seeds were chosen among thirty for varied greedy text ("In the beginning God", 32 tokens) in which every token
# leads the runner-up by 0.019 nats or more: above rounding with f16 weights; quantised activations can exceed it.
MODELS = {
    'llama-gqa-tied-f16': (llama, 28, {'tied': True}, 'grouped-query attention, tied token rows'),
    'llama-d288-q8_0': (llama, 5, {'layers': 2, 'd': 288, 'heads': 6, 'ff': 576, 'weights': 'q8_0'},
                        'Q8_0 rows that are not a multiple of 512'),
    'llama-d288-q4_0': (llama, 17, {'layers': 2, 'd': 288, 'heads': 6, 'ff': 576, 'weights': 'q4_0'},
                        'Q4_0 rows that are not a multiple of 512'),
    'llama-d256-q4_k': (llama, 28, {'layers': 2, 'd': 256, 'ff': 768, 'weights': q4_k_m},
                        'Q4_K and Q6_K rows that are not a multiple of 512'),
    'mixtral-q4_0': (llama, 15, {'layers': 2, 'd': 96, 'heads': 3, 'kv_heads': 1, 'ff': 160, 'experts': 8,
                             'weights': 'q4_0'}, 'quantised experts, multi-query attention'),
    'qwen2moe-f16': (qwen2moe, 25, {}, 'experts beside a shared expert, attention biases'),
    'gpt-oss-mxfp4': (gpt_oss, 16, {}, 'MXFP4 experts with biases, attention sinks, sliding window'),
    'gemma2-f16': (gemma2, 20, {}, 'sliding window, both logit soft caps'),
    'mamba-f16': (mamba, 1, {}, 'recurrent: selective scan'),
    'mamba2-f16': (mamba2, 9, {}, 'recurrent: selective scan with heads and groups'),
    'rwkv7-f16': (rwkv7, 21, {}, 'recurrent: WKV7'),
    'qwen35-f16': (qwen35, 28, {}, 'hybrid: gated delta net, every fourth layer attention'),
    'lfm2-f16': (lfm2, 19, {}, 'hybrid: short convolutions and attention'),
}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('dir', nargs='?', type=Path, help='folder for the test models')
    ap.add_argument('--only', nargs='+', choices=MODELS, metavar='NAME', help='write only these')
    ap.add_argument('--list', action='store_true', help='list the test models')
    ap.add_argument('--seed', type=int, help="default: each model's own, and 1 for --bench")
    bench = ap.add_argument_group('one llama for benchmarks')
    bench.add_argument('--bench', action='store_true')
    bench.add_argument('--out', type=Path)
    bench.add_argument('--layers', type=int, default=4)
    bench.add_argument('--d', type=int, default=256, help='embedding length')
    bench.add_argument('--heads', type=int, default=8)
    bench.add_argument('--kv-heads', type=int, help='default: as many as --heads')
    bench.add_argument('--ff', type=int, default=768)
    bench.add_argument('--vocab', type=int, default=512)
    bench.add_argument('--ctx', type=int, default=4096)
    bench.add_argument('--type', choices=['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_k'], default='f16')
    a = ap.parse_args()

    if a.list:
        for name, (*_, what) in MODELS.items():
            print(f'{name:20} {what}')
    elif a.bench:
        kv_heads = a.kv_heads or a.heads
        if not a.out:
            ap.error('--bench needs --out FILE')
        if a.d % (2 * a.heads) or a.heads % kv_heads:
            ap.error('--d must be an even multiple of --heads, and --heads a multiple of --kv-heads')
        a.out.parent.mkdir(parents=True, exist_ok=True)
        llama(a.out, 1 if a.seed is None else a.seed, layers=a.layers, d=a.d, heads=a.heads, kv_heads=kv_heads,
              ff=a.ff, vocab=a.vocab, ctx=a.ctx, weights=q4_k_m if a.type == 'q4_k' else a.type)
        print(f'{a.out} {a.out.stat().st_size}')
    elif a.dir:
        a.dir.mkdir(parents=True, exist_ok=True)
        for name in a.only or MODELS:
            make, seed, shape, _ = MODELS[name]
            path = a.dir / f'{name}.gguf'
            make(path, seed if a.seed is None else a.seed, **shape)
            print(f'{path} {path.stat().st_size}')
    else:
        ap.error('give a folder, --list or --bench')


if __name__ == '__main__':
    main()
