"""Rotary positions on a CPU: sines and cosines once for a pass.

All layers of a pass rotate by the same angles. MLX's fused kernels on a GPU compute them as they go; its CPU backend has
none and makes a dozen arrays for each call, two calls a layer: a twentieth of a step of the starter model.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
from mlx.nn.layers.positional_encoding import RoPE


class Angles:
    """Sines and cosines of the rows of one pass, until another pass asks.

    Args:
        dims: width of a head.
        base: of the frequencies.
        scale: what positions are multiplied by.
    """

    def __init__(self, dims: int, base: float, scale: float) -> None:
        self._half = dims // 2
        self._base = base
        self._scale = scale
        self._positions: mx.array | None = None
        self._tables: tuple[mx.array, mx.array] | None = None

    def at(self, positions: mx.array) -> tuple[mx.array, mx.array]:
        """(rows, 1, 1, dims) twice: the cosines, and the sines with the sign that each half takes. `positions`: (rows,)."""
        if self._tables is None or positions is not self._positions:
            exponents = mx.arange(self._half, dtype=mx.float32) * (-math.log(self._base) / self._half)
            angles = (positions.astype(mx.float32) * self._scale)[:, None, None, None] * mx.exp(exponents)
            cosines, sines = mx.cos(angles), mx.sin(angles)
            self._tables = mx.concatenate([cosines, cosines], -1), mx.concatenate([-sines, sines], -1)
            self._positions = positions
        return self._tables


class SharedRoPE(RoPE):
    """`nn.RoPE` whose rows of one token each take what another layer has computed. Made by `share_angles`."""

    def __call__(self, x: mx.array, offset: Any = 0) -> mx.array:
        """See `nn.RoPE`."""
        if not isinstance(offset, mx.array) or offset.ndim != 1 or x.shape[2:] != (1, self.dims):
            plain: mx.array = super().__call__(x, offset)
            return plain
        cosines, sines = self.angles.at(offset)
        half = self.dims // 2
        swapped = mx.concatenate([x[..., half:], x[..., :half]], axis=-1)
        rotated: mx.array = (x * cosines + swapped * sines).astype(x.dtype)
        return rotated


def share_angles(model: Any) -> None:
    """Let `model`'s layers share them, where they rotate as most models do; others stay as they are."""
    known: dict[tuple[int, float, float], Angles] = {}
    for module in model.modules():
        if type(module) is RoPE and not module.traditional:
            key = module.dims, module.base, module.scale
            module.angles = known.setdefault(key, Angles(*key))
            module.__class__ = SharedRoPE
