"""How the processes import what is large."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRAMEWORKS = ("torch", "tensorflow", "jax", "flax")


@contextmanager
def uncollected() -> Iterator[None]:
    """Import in here, without the garbage collector.

    None of what imports make is garbage, and looking for it takes a tenth of a start. What is there at the end is not
    looked at again, since it stays as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def without_frameworks() -> None:
    """As if no other framework of arrays were installed, in this process.

    mlx-lm imports transformers, and that imports PyTorch wherever it is installed, for tensors that nobody here makes:
    seconds, and half a gigabyte.
    """
    for name in _FRAMEWORKS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # the documented way to stop an import
