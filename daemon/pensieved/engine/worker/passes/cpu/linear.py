"""Linear layers of a few rows on an x86 CPU.

OpenBLAS copies what it multiplies into an order of its own first, all weights for a few rows. Where it can do without, it is let
(`unpacked`), if that is faster on this machine (`trial`). Elsewhere it is given weights times rows, not rows times weights: the
numbers are the same, transposed, but it copies its first matrix more slowly than its second. `tests/bench/ways.py` measures
what both are worth. With more rows the copy no longer matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

from pensieved.engine.worker.passes.cpu import openblas
from pensieved.engine.worker.passes.cpu.siblings import by_input, multiply_unpacked
from pensieved.engine.worker.passes.cpu.trial import pays
from pensieved.engine.worker.passes.cpu.unpacked import Lanes

if TYPE_CHECKING:
    from pensieved.engine.worker.passes.cpu.siblings import Multiply

MOST_ROWS = 64
"""Rows beyond which it makes no difference."""
MOST_LANES = 4
"""Threads of the BLAS up to which as many lanes are tried: there is too little to do for more."""


class FewRowsLinear(Linear):
    """`nn.Linear` that multiplies so. Made by `multiply_few_rows`."""

    product: Multiply | None

    def __call__(self, x: mx.array) -> mx.array:
        """See `nn.Linear`."""
        out = _multiply(x, self["weight"], self.product)
        if out is None:
            plain: mx.array = super().__call__(x)
            return plain
        return out + self["bias"] if "bias" in self else out


class FewRowsEmbedding(Embedding):
    """`nn.Embedding` that multiplies so where it is a model's head as well. Made by `multiply_few_rows`."""

    product: Multiply | None

    def as_linear(self, x: mx.array) -> mx.array:
        """See `nn.Embedding`."""
        out = _multiply(x, self["weight"], self.product)
        if out is None:
            plain: mx.array = super().as_linear(x)  # type: ignore[no-untyped-call]  # mlx has no type here
            return plain
        return out


KINDS: dict[type, type] = {Linear: FewRowsLinear, Embedding: FewRowsEmbedding}
"""Kinds of layers, and what they are made."""


def multiply_few_rows(model: Any) -> None:
    """Let all plain linear layers of `model` do so; layers of another class stay as they are."""
    layers = take_over(model)
    if openblas.has_small_kernels() and openblas.threads() <= MOST_LANES:
        groups, lanes = by_input(model, layers), Lanes(openblas.threads())
        if pays(([layer.weight for layer in group] for group in groups), lanes, _weights_first):
            multiply_unpacked(groups, lanes)
        mx.clear_cache()  # weights that were put behind each other, and what they were before


def take_over(model: Any) -> list[Any]:
    """The layers of `model` that this is for, made such as ask their `product`; they have none yet."""
    layers: list[Any] = [module for module in model.modules() if type(module) in KINDS]
    for layer in layers:
        layer.product = None
        layer.__class__ = KINDS[type(layer)]
    return layers


def _multiply(x: mx.array, weight: mx.array, product: Multiply | None) -> mx.array | None:
    """`x @ weight.T`, or None where MLX's own way is as good."""
    rows = x.size // x.shape[-1]
    if rows > MOST_ROWS or not (x.dtype == weight.dtype == mx.float32):
        return None
    if product is not None and rows <= product.most_rows:
        return product(x)
    return _weights_first(weight, x.reshape(rows, -1)).reshape(*x.shape[:-1], -1)


def _weights_first(weight: mx.array, x: mx.array) -> mx.array:
    """(rows, outputs) for x, (rows, inputs)."""
    return (weight @ x.T).T
