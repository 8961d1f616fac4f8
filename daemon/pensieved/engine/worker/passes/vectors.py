"""Linear layers of a few rows, each row by itself: a matrix times a vector, for CUDA.

For a single row MLX launches a kernel of its own, for more it asks cuBLAS, and asking takes longer than a small product does. A
small model's step is nothing but such calls: on an H200, SmolLM2-135M's takes 5.2 ms with four rows that way, and 3.5 ms with
each row multiplied by itself (`tests/bench/step.py`). Every row reads the weights again then, so this is for weights that a
few rows read in no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

if TYPE_CHECKING:
    import mlx.core as mx

MOST_ROWS = 32
"""Rows beyond which it was never measured."""
MOST_BYTES = 64 * 1024**2
"""Bytes that all rows together read of a weight, up to which asking costs more than reading."""


class VectorLinear(Linear):
    """`nn.Linear` that multiplies a few rows one by one. Made by `see_vectors`."""

    def __call__(self, x: mx.array) -> mx.array:
        """See `nn.Linear`."""
        if not _suits(x, self["weight"]):
            plain: mx.array = super().__call__(x)
            return plain
        out = _by_rows(x, self["weight"])
        return out + self["bias"] if "bias" in self else out


class VectorEmbedding(Embedding):
    """The same for an embedding that is the head as well."""

    def as_linear(self, x: mx.array) -> mx.array:
        """See `nn.Embedding`."""
        if not _suits(x, self["weight"]):
            plain: mx.array = super().as_linear(x)  # type: ignore[no-untyped-call]  # mlx has no types
            return plain
        return _by_rows(x, self["weight"])


def see_vectors(model: Any) -> None:
    """Let all plain linear layers of `model` do so; layers of another class stay as they are."""
    kinds: dict[type, type] = {Linear: VectorLinear, Embedding: VectorEmbedding}
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]


def _suits(x: mx.array, weight: mx.array) -> bool:
    rows = x.size // x.shape[-1]
    return 1 < rows <= MOST_ROWS and rows * weight.nbytes <= MOST_BYTES


def _by_rows(x: mx.array, weight: mx.array) -> mx.array:
    """(..., width) times (outputs, width), transposed."""
    out: mx.array = weight @ x.reshape(-1, x.shape[-1], 1)
    return out.reshape(*x.shape[:-1], -1)
