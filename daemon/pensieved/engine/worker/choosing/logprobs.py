"""Log-probabilities of the tokens of one step, for the requests that asked for them.

Of each row's log-probabilities over the whole vocabulary, what is wanted is cut out for all asking rows in one graph and
one evaluation, which waits for whatever its stream is busy with.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from pensieved.engine.protocol import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST = -9999.0
"""What stands for a probability of nothing: infinity is no number of JSON."""


def read_logprobs(
    rows: Sequence[mx.array], tokens: Sequence[int], wanted: Sequence[int]
) -> list[TokenLogprobs]:
    """For each row: the log-probability of its token, and its `wanted` likeliest tokens, best first.

    Args:
        rows: log-probabilities over the vocabulary, one array a request.
        tokens: which token each row chose.
        wanted: how many likeliest tokens each row reports; more than the vocabulary are all of it.
    """
    table = mx.stack(list(rows)).astype(mx.float32)
    chosen = mx.take_along_axis(table, mx.array(list(tokens))[:, None], axis=-1)
    count = min(max(wanted), table.shape[-1])
    best = mx.argpartition(-table, kth=min(count, table.shape[-1] - 1), axis=-1)[:, :count]
    values = mx.take_along_axis(table, best, axis=-1)
    mx.eval(chosen, best, values)
    columns: tuple[Any, ...] = (chosen[:, 0].tolist(), best.tolist(), values.tolist())
    return [
        TokenLogprobs(_finite(of_chosen), _likeliest(ids, logprobs, number))
        for of_chosen, ids, logprobs, number in zip(*columns, wanted, strict=True)
    ]


def normalised(logits: mx.array) -> mx.array:
    """Log-probabilities, of the shape of `logits`: (rows, vocabulary)."""
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _likeliest(ids: list[int], logprobs: list[float], count: int) -> tuple[tuple[int, float], ...]:
    """The first `count` pairs by falling log-probability, then by id; impossible tokens are not among them."""
    pairs = sorted(zip(ids, logprobs, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return tuple((token, value) for token, value in pairs[:count] if value > LEAST)


def _finite(value: float) -> float:
    return LEAST if math.isnan(value) else max(value, LEAST)
