"""Exponentials of many scores on an x86 CPU: by NumPy, in the memory that MLX computed them in.

MLX's backend there takes one number at a time; NumPy's loops use the vectors that the processor has, and rows few enough for a
core's cache are finished before the next ones are looked at. `tests/bench/ways.py` measures what that is worth.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from pensieved.engine.worker.passes.cpu import openblas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

NEAR = 1 << 17
"""Numbers that stay in a core's cache from one operation to the next: half a MiB."""
LEAST = 1 << 16
"""Numbers for which it is worth waking a thread."""


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
    numbers, added = _memory(scores), _memory(hidden)
    numbers[..., numbers.shape[-1] - added.shape[-1] :] += added
    rows = numbers.reshape(-1, numbers.shape[-1])
    sums = np.empty((len(rows), 1), np.float32)
    first, *others = _shares(rows, sums)
    waiting = [_pool().submit(_exponentiate, *share) for share in others]
    _exponentiate(*first)
    for each in waiting:
        each.result()
    return mx.array(sums.reshape(*numbers.shape[:-1], 1))


def _memory(array: mx.array) -> Floats:
    """An array's own numbers; never a copy of them."""
    view: Any = memoryview(array)  # type: ignore[arg-type]  # mlx's stub does not say that it is a buffer
    return np.asarray(view)


def _shares(rows: Floats, sums: Floats) -> Iterator[tuple[Floats, Floats]]:
    """A part of the rows for each thread, at least one."""
    count = max(1, min(openblas.threads(), rows.size // LEAST, len(rows)))
    return zip(np.array_split(rows, count), np.array_split(sums, count), strict=True)


def _exponentiate(rows: Floats, sums: Floats) -> None:
    together = max(1, NEAR // rows.shape[1])
    for start in range(0, len(rows), together):
        near = rows[start : start + together]
        near -= near.max(axis=1, keepdims=True)
        np.exp(near, out=near)
        near.sum(axis=1, keepdims=True, out=sums[start : start + together])


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, openblas.threads() - 1), thread_name_prefix="softmax")
