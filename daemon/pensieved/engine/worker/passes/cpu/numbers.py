"""MLX's arrays as NumPy sees them, worked on where they lie, by as many threads as the BLAS has.

MLX's backend for x86 takes one number at a time; NumPy's loops use the vectors that the processor has, and rows few enough for a core's
cache are finished before the next ones are looked at. `tests/bench/ways.py` measures what that is worth.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pensieved.engine.worker.passes.cpu import openblas

if TYPE_CHECKING:
    from collections.abc import Callable

    import mlx.core as mx
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_own = threading.local()

NEAR = 1 << 17
"""Numbers that stay in a core's cache from one operation to the next: half a MiB."""
LEAST = 1 << 16
"""Numbers for which it is worth waking a thread."""


def memory(array: mx.array) -> Floats:
    """The own numbers of an array that is computed; never a copy of them."""
    view: Any = memoryview(array)  # type: ignore[arg-type]  # mlx's stub does not say that it is a buffer
    return np.asarray(view)


def by_rows(work: Callable[..., None], *matrices: Floats) -> None:
    """Have `work` done to a few rows of all matrices at a time, until it is done to all of them.

    Args:
        work: given as many rows of each; it changes them in place.
        matrices: equally many rows; the first has the most numbers.
    """
    rows = matrices[0]
    count = max(1, min(openblas.threads(), rows.size // LEAST, len(rows)))
    first, *others = zip(*(np.array_split(each, count) for each in matrices), strict=True)
    waiting = [_pool().submit(_near, work, *share) for share in others]
    _near(work, *first)
    for each in waiting:
        each.result()


def scratch(like: Floats) -> Floats:
    """Room for as many numbers in the same shape: of this thread, and the same each time, since fresh memory costs more than the work."""
    known: Floats | None = getattr(_own, "room", None)
    if known is None or known.size < like.size:
        known = _own.room = np.empty(like.size, np.float32)
    return known[: like.size].reshape(like.shape)


def _near(work: Callable[..., None], *matrices: Floats) -> None:
    rows = matrices[0]
    together = max(1, NEAR // rows.shape[1])
    for start in range(0, len(rows), together):
        work(*(each[start : start + together] for each in matrices))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, openblas.threads() - 1), thread_name_prefix="numbers")
