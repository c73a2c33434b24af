"""Weights without weight files: the value of every element of every parameter is a pure function
of the parameter's name in the checkpoint, the element's index and the parameter's role.

`values` is the whole rule and needs nothing but numpy: FNV-1a of the name, splitmix64 over it and
the index, the top 24 bits to a uniform number strictly between -1 and 1 that float32 holds
exactly, then center + scale * uniform, product and sum each rounded to float32. A storage dtype
narrower than float32 rounds once more, to nearest even. All sums and products of integers are
modulo 2^64. A tied parameter counts under the embedding's name.

`role` says which center and scale a parameter has:

    matrix       0, sqrt(3 / fan_in): outputs have the variance of the inputs. Every weight of rank
                 2 and more, embeddings too; fan_in is the last dimension, but the one before it
                 where the checkpoint stores [in, out].
    query, key   1.25 times that: attention scores have a spread of 1 to 2.
    norm         weights of rank 1: 1, or 0 where the family multiplies by 1 + weight; scale 0.25.
    bias         0, 0.25: whatever ends with bias, of linears, norms and fused experts.
    router bias  0, 0.125: e_score_correction_bias.
    sinks        0, 1: attention sinks, one score per head.

The scale is computed in double and rounded to float32 once.
"""

import math

import numpy as np


def values(name, shape, center, scale):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    i = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    z = np.uint64(h) + i * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    r = ((z ^ z >> np.uint64(31)) >> np.uint64(40)).astype(np.int64)
    uniform = (2 * r + 1 - 2**24).astype(np.float32) * np.float32(2.0**-24)
    return (np.float32(center) + np.float32(scale) * uniform).reshape(shape)


QUERY_KEY = ("q_proj", "k_proj", "q_b_proj", "query_key_value", "qkv_proj", "c_attn")
ONE_PLUS_WEIGHT = ("gemma", "gemma2", "gemma3_text")
STORED_IN_OUT = {
    "gpt2": ("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    "gpt_oss": ("experts.gate_up_proj", "experts.down_proj"),
}


def role(name, shape, model_type):
    """Center and scale of a parameter or persistent buffer of a model type."""
    if name.endswith("e_score_correction_bias"):
        return 0.0, 0.125
    if name.endswith("bias"):
        return 0.0, 0.25
    if name.endswith(".sinks"):
        return 0.0, 1.0
    if len(shape) == 1:
        return 0.0 if model_type in ONE_PLUS_WEIGHT else 1.0, 0.25
    fan_in = shape[-2] if name.endswith(STORED_IN_OUT.get(model_type, ())) else shape[-1]
    gain = 1.25 if name.removesuffix(".weight").endswith(QUERY_KEY) else 1.0
    return 0.0, gain * math.sqrt(3 / fan_in)


def weights(parameters, model_type):
    """float32 arrays of (name, shape) pairs, by name."""
    return {name: values(name, shape, *role(name, shape, model_type)) for name, shape in parameters}
