"""Attention on an x86 CPU, with powers of two for exponentials; see `powers`.

MLX has no fused attention there either, so nothing is lost by making it of products and sums. What is divided by the sum of
a row's weights is the row's result, which is shorter than its weights where contexts are long.
"""

from __future__ import annotations

import mlx.core as mx

from pensieved.engine.worker.passes.cpu.device import on_x86
from pensieved.engine.worker.passes.cpu.powers import PER_UNIT, power_of_two


def suits(queries: mx.array, keys: mx.array, values: mx.array) -> bool:
    """Whether `attend` can do it, and better."""
    return on_x86() and queries.dtype == keys.dtype == values.dtype == mx.float32


def hiding(mask: mx.array) -> mx.array:
    """What to add to scores so that only those count for which `mask` is true."""
    return mx.where(mask, mx.array(0.0), mx.array(-mx.inf))


def attend(queries: mx.array, keys: mx.array, values: mx.array, scale: float, hidden: mx.array) -> mx.array:
    """Softmax of scaled products of queries and keys, times values.

    Args:
        queries: (sequences, heads, tokens, width).
        keys: (sequences, KV heads, positions, width).
        values: like `keys`.
        scale: what scores are multiplied by.
        hidden: what is added to them, to be broadcast to (sequences, heads, tokens, positions); see `hiding`. Each token must
            see a position at least.
    """
    sequences, heads, tokens, width = queries.shape
    _, kv_heads, positions, _ = keys.shape
    grouped = (sequences, kv_heads, heads // kv_heads * tokens)
    scores = (queries * (scale * PER_UNIT)).reshape(*grouped, width) @ keys.swapaxes(-1, -2)
    scores = scores.reshape(sequences, heads, tokens, positions) + hidden
    weights = power_of_two(scores - scores.max(axis=-1, keepdims=True))
    out = (weights.reshape(*grouped, positions) @ values).reshape(sequences, heads, tokens, -1)
    return out / weights.sum(axis=-1, keepdims=True)
