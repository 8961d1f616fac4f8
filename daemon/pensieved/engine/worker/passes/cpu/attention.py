"""Attention on an x86 CPU, where MLX has no fused one, so that nothing is lost by making it of products and sums.

What is divided by the sum of a row's weights is the row's result, which is shorter than its weights where contexts are long.
With few scores it is part of the pass as MLX knows it, with powers of two for exponentials (see `powers`). With many, it is
computed while the pass is being made (see `softmax`): then the pass is all but computed when it is made. So it may pause here, in
each layer (see `pauses`).
"""

from __future__ import annotations

import mlx.core as mx

from pensieved.engine.worker.passes.cpu.device import on_x86
from pensieved.engine.worker.passes.cpu.powers import PER_UNIT, power_of_two
from pensieved.engine.worker.passes.cpu.softmax import exponentiate
from pensieved.engine.worker.passes.pauses import pause


def suits(*kinds: mx.Dtype) -> bool:
    """Whether attention of queries, keys and values of these types is computed here, and better."""
    return on_x86() and all(kind == mx.float32 for kind in kinds)


def hiding(mask: mx.array) -> mx.array:
    """What to add to scores so that only those count for which `mask` is true."""
    return mx.where(mask, mx.array(0.0), mx.array(-mx.inf))


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, hidden: mx.array, *, at_once: bool
) -> mx.array:
    """Softmax of scaled products of queries and keys, times values.

    Args:
        queries: (sequences, heads, tokens, width).
        keys: (sequences, KV heads, positions, width).
        values: like `keys`.
        scale: what scores are multiplied by.
        hidden: what is added to the scores of the last positions, as many as it has; to be broadcast to (sequences, heads,
            tokens, …); see `hiding`. Each token must see a position at least.
        at_once: whether to compute it now. No array that is computed meanwhile is written to in place if anybody still
            refers to what it was.
    """
    sequences, heads, tokens, width = queries.shape
    _, kv_heads, positions, _ = keys.shape
    grouped = (sequences, kv_heads, heads // kv_heads * tokens)
    unit = scale if at_once else scale * PER_UNIT
    products = (queries * unit).reshape(*grouped, width) @ keys.swapaxes(-1, -2)
    scores = products.reshape(sequences, heads, tokens, positions)
    if at_once:
        weights, sums = scores, exponentiate(scores, hidden)
    else:
        weights = _powers(scores, hidden)
        sums = weights.sum(axis=-1, keepdims=True)
    out = (weights.reshape(*grouped, positions) @ values).reshape(sequences, heads, tokens, -1) / sums
    if at_once:
        mx.async_eval(out)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
        del products, scores, weights  # nobody holds them while the pass pauses
        pause()
    return out


def _powers(scores: mx.array, hidden: mx.array) -> mx.array:
    """2 to the power of what each score lies below the largest of its row."""
    before = scores.shape[-1] - hidden.shape[-1]
    if before:
        hidden = mx.pad(hidden, [*[(0, 0)] * (hidden.ndim - 1), (before, 0)])
    left = scores + hidden
    return power_of_two(left - left.max(axis=-1, keepdims=True))
