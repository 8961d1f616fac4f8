"""Rotary positions on a CPU: sines and cosines once for a pass.

All layers of a pass rotate by the same angles. MLX's fused kernels on a GPU compute them as they go; its CPU backend has
none and makes a dozen arrays for each call, two calls a layer: a twentieth of a step of the starter model.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.nn.layers.positional_encoding import RoPE

if TYPE_CHECKING:
    from collections.abc import Iterator

    _Tables = dict[tuple[int, float, float], tuple[mx.array, mx.array]]


class Angles:
    """Sines and cosines of the rows of the passes that are being made: of one, and of one that pauses meanwhile."""

    def __init__(self) -> None:
        # By the identity of the positions: an array that nobody else can have the place of while its pass is made.
        self._passes: dict[int, _Tables] = {}

    @contextmanager
    def of(self, positions: mx.array) -> Iterator[None]:
        """A pass of rows at these positions, (rows,), is made in here."""
        self._passes[id(positions)] = {}
        try:
            yield
        finally:
            del self._passes[id(positions)]

    def at(self, positions: Any, dims: int, base: float, scale: float) -> tuple[mx.array, mx.array] | None:
        """(rows, 1, 1, dims) twice: the cosines, and the sines with the sign that each half takes.

        None where `positions` is not the array of a pass: whoever calls the model otherwise has others.

        Args:
            positions: where the rows are to be.
            dims: width of a head.
            base: of the frequencies.
            scale: what positions are multiplied by.
        """
        tables = self._passes.get(id(positions))
        if tables is None:
            return None
        key = dims, base, scale
        if key not in tables:
            tables[key] = _tables(positions, *key)
        return tables[key]


class SharedRoPE(RoPE):
    """`nn.RoPE` that takes angles which another layer has had computed. Made by `share_angles`."""

    def __call__(self, x: mx.array, offset: Any = 0) -> mx.array:
        """See `nn.RoPE`."""
        alone = x.shape[2:] == (1, self.dims)
        tables = self.angles.at(offset, self.dims, self.base, self.scale) if alone else None
        if tables is None:
            plain: mx.array = super().__call__(x, offset)
            return plain
        cosines, sines = tables
        half = self.dims // 2
        swapped = mx.concatenate([x[..., half:], x[..., :half]], axis=-1)
        rotated: mx.array = (x * cosines + swapped * sines).astype(x.dtype)
        return rotated


def share_angles(model: Any) -> Angles:
    """Let `model`'s layers share them, where they rotate as most models do; others stay as they are."""
    modules = model.modules()
    angles = next((module.angles for module in modules if isinstance(module, SharedRoPE)), Angles())
    for module in modules:
        if type(module) is RoPE and not module.traditional:
            module.angles = angles
            module.__class__ = SharedRoPE
    return angles


def _tables(positions: mx.array, dims: int, base: float, scale: float) -> tuple[mx.array, mx.array]:
    half = dims // 2
    frequencies = mx.exp(mx.arange(half, dtype=mx.float32) * (-math.log(base) / half))
    angles = (positions.astype(mx.float32) * scale)[:, None, None, None] * frequencies
    cosines, sines = mx.cos(angles), mx.sin(angles)
    return mx.concatenate([cosines, cosines], -1), mx.concatenate([-sines, sines], -1)
