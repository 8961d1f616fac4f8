"""What the BLAS in this process is and can do."""

from __future__ import annotations

import ctypes
from functools import cache

_WITH_SMALL_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}
"""OpenBLAS's names of the cores for which it has kernels for small products: those with AVX-512."""


@cache
def threads() -> int:
    """How many the BLAS uses for a product; 0 where it is not OpenBLAS."""
    count = getattr(ctypes.CDLL(None), "openblas_get_num_threads", None)
    return count() if count is not None else 0


@cache
def has_small_kernels() -> bool:
    """Whether it multiplies small matrices as they lie, without a copy in an order of its own."""
    name = getattr(ctypes.CDLL(None), "openblas_get_corename", None)
    if name is None:
        return False
    name.restype = ctypes.c_char_p
    return name().decode() in _WITH_SMALL_KERNELS
