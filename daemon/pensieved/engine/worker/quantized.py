"""Quantized layers see all rows of a pass as one matrix, of a size that suits the device.

A decode step of a batch is (rows, 1, width). MLX multiplies each leading index by itself where weights are quantized: on
CUDA every row reads all weights again, as a vector, and no tensor core is used. (rows, width) is the same numbers as one
matrix. Weights that are not quantized need no help: there MLX merges the leading dimensions itself.

Even so, the fewer rows a matrix has the more they cost there; a few rows have a kernel of their own (`kernels.qmm`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

from pensieved.engine.worker.kernels import qmm

if TYPE_CHECKING:
    import mlx.core as mx


class MatrixLinear(QuantizedLinear):
    """`QuantizedLinear` for inputs of any number of dimensions. Made by `see_matrices`."""

    def __call__(self, x: mx.array) -> mx.array:
        """See `QuantizedLinear`."""
        matrix = _matrix(x)
        if qmm.suits(matrix, self):
            out = qmm.multiply(matrix, self)
            out = out + self["bias"] if "bias" in self else out
        else:
            out = super().__call__(matrix)  # type: ignore[no-untyped-call]  # mlx has no types
        return out.reshape(*x.shape[:-1], -1)


class MatrixEmbedding(QuantizedEmbedding):
    """The same for an embedding that is the head as well."""

    def as_linear(self, x: mx.array) -> mx.array:
        """See `QuantizedEmbedding`."""
        matrix = _matrix(x)
        out = qmm.multiply(matrix, self) if qmm.suits(matrix, self) else super().as_linear(matrix)  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], -1)


def see_matrices(model: Any) -> None:
    """Let all quantized layers of `model` do so; layers of another class stay as they are."""
    kinds: dict[type, type] = {QuantizedLinear: MatrixLinear, QuantizedEmbedding: MatrixEmbedding}
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]


def _matrix(x: mx.array) -> mx.array:
    return x.reshape(-1, x.shape[-1])
