"""Linear layers of a few rows on an x86 CPU: weights times rows, not rows times weights.

The numbers are the same, transposed. But OpenBLAS copies what it multiplies into an order of its own first, all weights for a
few rows, and copies its first matrix more slowly than its second (`tests/bench/ways.py` measures what this is worth). With more
rows the copy no longer matters.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.linear import Linear

MOST_ROWS = 64
"""Rows beyond which it makes no difference."""


class WeightsFirstLinear(Linear):
    """`nn.Linear` that multiplies so. Made by `multiply_weights_first`."""

    def __call__(self, x: mx.array) -> mx.array:
        """See `nn.Linear`."""
        weight: mx.array = self["weight"]
        rows = x.size // x.shape[-1]
        if rows > MOST_ROWS or not (x.dtype == weight.dtype == mx.float32):
            plain: mx.array = super().__call__(x)
            return plain
        out = (weight @ x.reshape(rows, -1).T).T.reshape(*x.shape[:-1], -1)
        return out + self["bias"] if "bias" in self else out


def multiply_weights_first(model: Any) -> None:
    """Let all plain linear layers of `model` do so; layers of another class stay as they are."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = WeightsFirstLinear
