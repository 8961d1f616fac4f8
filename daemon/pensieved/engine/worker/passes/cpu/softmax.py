"""Exponentials of many scores on an x86 CPU, in the memory that MLX computed them in (see `numbers`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from pensieved.engine.worker.passes.cpu.numbers import by_rows, memory

if TYPE_CHECKING:
    from pensieved.engine.worker.passes.cpu.numbers import Floats


def exponentiate(scores: mx.array, hidden: mx.array) -> mx.array:
    """Make of each score, in place, e to the power of what it lies below the largest of its row; the sums of the rows.

    Args:
        scores: (sequences, heads, tokens, positions), float32. Computed now, if it is not yet. Its memory is written to, so
            nothing else may be going to read it.
        hidden: what is added to the scores of the last positions, as many as it has; to be broadcast to (sequences, heads,
            tokens, …). Each row must keep a finite score.

    Returns:
        (sequences, heads, tokens, 1)
    """
    mx.eval(scores, hidden)
    numbers, added = memory(scores), memory(hidden)
    numbers[..., numbers.shape[-1] - added.shape[-1] :] += added
    rows = numbers.reshape(-1, numbers.shape[-1])
    sums = np.empty((len(rows), 1), np.float32)
    by_rows(_exponentiate, rows, sums)
    return mx.array(sums.reshape(*numbers.shape[:-1], 1))


def _exponentiate(rows: Floats, sums: Floats) -> None:
    rows -= rows.max(axis=1, keepdims=True)
    np.exp(rows, out=rows)
    rows.sum(axis=1, keepdims=True, out=sums)
