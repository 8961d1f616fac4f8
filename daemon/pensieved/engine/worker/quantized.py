"""Quantized layers see all rows of a pass as one matrix, of a size that suits the device.

A decode step of a batch is (rows, 1, width). MLX multiplies each leading index by itself where weights are quantized: on
CUDA every row reads all weights again, as a vector, and no tensor core is used. (rows, width) is the same numbers as one
matrix. Weights that are not quantized need no help: there MLX merges the leading dimensions itself.

Even so, a matrix of fewer than `FILLED` rows is multiplied row by row there: on an H200, the products of a
4-bit Phi-3-mini take two to four times as long with four rows as with eight. So a pass of a few rows is filled up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

if TYPE_CHECKING:
    import mlx.core as mx


FILLED = 8
"""Rows from which on MLX's CUDA backend multiplies a matrix by quantized weights as one."""


class MatrixLinear(QuantizedLinear):
    """`QuantizedLinear` for inputs of any number of dimensions. Made by `see_matrices`."""

    def __call__(self, x: mx.array) -> mx.array:
        """See `QuantizedLinear`."""
        out: mx.array = super().__call__(_matrix(x))  # type: ignore[no-untyped-call]  # mlx has no types
        return out.reshape(*x.shape[:-1], -1)


class MatrixEmbedding(QuantizedEmbedding):
    """The same for an embedding that is the head as well."""

    def as_linear(self, x: mx.array) -> mx.array:
        """See `QuantizedEmbedding`."""
        out: mx.array = super().as_linear(_matrix(x))  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], -1)


def see_matrices(model: Any) -> bool:
    """Let all quantized layers of `model` do so; layers of another class stay as they are.

    Returns:
        Whether there are some, and none of another class: experts, say, that rows more would make read more weights.
    """
    kinds: dict[type, type] = {QuantizedLinear: MatrixLinear, QuantizedEmbedding: MatrixEmbedding}
    quantized = [module for module in model.modules() if "scales" in module]
    for module in quantized:
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]
    return bool(quantized) and all(type(module) in kinds.values() for module in quantized)


def _matrix(x: mx.array) -> mx.array:
    return x.reshape(-1, x.shape[-1])
