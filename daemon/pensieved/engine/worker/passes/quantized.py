"""Quantized layers see all rows of a pass as one matrix, and multiply it in the way that suits the device.

A decode step of a batch is (rows, 1, width). MLX multiplies each leading index by itself where weights are quantized: on
CUDA every row reads all weights again, as a vector, and no tensor core is used. (rows, width) is the same numbers as one
matrix. Weights that are not quantized need no help: there MLX merges the leading dimensions itself.

Even for a matrix, MLX's quantized product is far from what a GPU of Nvidia's can do. There a few rows have a kernel of
ours (`kernels.qmm`), and for more the weights are unpacked first, for a product of ordinary matrices: a layer's at a
time, so they are hardly in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

from pensieved.engine.worker.passes.kernels import qmm
from pensieved.engine.worker.passes.kernels.device import on_cuda

if TYPE_CHECKING:
    from collections.abc import Callable


class MatrixLinear(QuantizedLinear):
    """`QuantizedLinear` for inputs of any number of dimensions. Made by `see_matrices`."""

    def __call__(self, x: mx.array) -> mx.array:
        """See `QuantizedLinear`."""
        return _product(x, self, super().__call__)


class MatrixEmbedding(QuantizedEmbedding):
    """The same for an embedding that is the head as well."""

    def as_linear(self, x: mx.array) -> mx.array:
        """See `QuantizedEmbedding`."""
        return _product(x, self, super().as_linear)


def see_matrices(model: Any) -> bool:
    """Let all quantized layers of `model` do so; layers of another class stay as they are. Whether weights may be unpacked then."""
    kinds: dict[type, type] = {QuantizedLinear: MatrixLinear, QuantizedEmbedding: MatrixEmbedding}
    quantized = [module for module in model.modules() if type(module) in kinds]
    if quantized and on_cuda():
        qmm.works()  # before it is asked in the midst of a pass
    for module in quantized:
        module.__class__ = kinds[type(module)]
    return bool(quantized) and on_cuda()


def _product(x: mx.array, layer: Any, plain: Callable[[mx.array], mx.array]) -> mx.array:
    """`x`, (..., inputs), times the weights of `layer`, (..., outputs); `plain` is MLX's way."""
    matrix = x.reshape(-1, x.shape[-1])
    if qmm.suits(matrix, layer):
        out = _with_bias(qmm.multiply(matrix, layer), layer)
    elif len(matrix) > qmm.MOST_ROWS and _unpacks(matrix, layer):
        out = _with_bias(matrix @ _unpacked(layer).T, layer)
    else:
        out = plain(matrix)
    return out.reshape(*x.shape[:-1], -1)


def _unpacks(matrix: mx.array, layer: Any) -> bool:
    return on_cuda() and layer.mode == "affine" and matrix.dtype == layer["scales"].dtype


def _unpacked(layer: Any) -> mx.array:
    parts = layer["weight"], layer["scales"], layer["biases"]
    return mx.dequantize(*parts, group_size=layer.group_size, bits=layer.bits)


def _with_bias(out: mx.array, layer: Any) -> mx.array:
    return out + layer["bias"] if "bias" in layer else out
