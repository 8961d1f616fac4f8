"""Layers that read the same input, multiplied at once: queries, keys and values; the gate and what it gates.

A product of few rows takes so little that what surrounds it counts: arrays to be made, streams that wait for each other. The
weights of such layers are put behind each other, and each gets its part of the one result. Which layers these are is seen in a
pass that is never computed.
"""

from __future__ import annotations

from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from pensieved.engine.worker.passes.cpu.unpacked import Product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.engine.worker.passes.cpu.unpacked import Lanes


class Multiply(Protocol):
    """A way to multiply with a layer's weights; `most_rows` is how many rows it can."""

    most_rows: int

    def __call__(self, x: mx.array) -> mx.array:
        """`x @ weight.T`."""


def by_input(model: Any, layers: Sequence[Any]) -> list[list[Any]]:
    """Layers that multiply in a pass, each once; together those that are given the same array in turn.

    Args:
        model: it is called for one token, and nothing of that is computed.
        layers: modules with a `weight` and a `product`, which they ask for what they are to compute.
    """
    first: dict[int, tuple[Any, mx.array]] = {}
    for layer in layers:
        layer.product = _Watch(layer, first)
    model(mx.array([[0]]), cache=make_prompt_cache(model))
    for layer in layers:
        layer.product = None
    together = groupby(first.values(), key=lambda call: id(call[1]))
    return [[layer for layer, _ in calls] for _, calls in together]


def multiply_unpacked(groups: Sequence[Sequence[Any]], lanes: Lanes) -> None:
    """Give each layer a `Product`, or a part of one, where their weights can be cut so.

    Args:
        groups: from `by_input`.
        lanes: what computes.
    """
    for group in groups:
        if fit([layer.weight for layer in group]):
            _join(group, lanes)


def fit(weights: Sequence[mx.array]) -> bool:
    """Whether these, each (outputs, inputs) with the same inputs, can be cut into slices when they are put behind each other."""
    (inputs,) = {weight.shape[1] for weight in weights}
    return Product.fits(sum(map(len, weights)), inputs)


def _join(group: Sequence[Any], lanes: Lanes) -> None:
    if len(group) == 1:
        group[0].product = Product(group[0].weight, lanes)
        return
    edges = [0, *accumulate(len(layer.weight) for layer in group)]
    weights = mx.concatenate([layer.weight for layer in group])
    mx.eval(weights)
    shared = _Shared(Product(weights, lanes))
    for layer, (start, end) in zip(group, pairwise(edges), strict=True):
        layer.weight = weights[start:end]
        layer.product = _Part(shared, start, end, last=layer is group[-1])
    mx.eval([layer.weight for layer in group])


class _Shared:
    """A product for several layers, made for the first of them that asks and kept until the last one has."""

    def __init__(self, product: Product) -> None:
        self.most_rows = product.most_rows
        self._product = product
        self._made: tuple[mx.array, mx.array] | None = None

    def of(self, x: mx.array, *, last: bool) -> mx.array:
        if self._made is None or self._made[0] is not x:
            self._made = x, self._product(x)
        found = self._made[1]
        if last:
            self._made = None
        return found


class _Part:
    def __init__(self, shared: _Shared, start: int, end: int, *, last: bool) -> None:
        self.most_rows = shared.most_rows
        self._shared = shared
        self._start = start
        self._end = end
        self._last = last

    def __call__(self, x: mx.array) -> mx.array:
        return self._shared.of(x, last=self._last)[..., self._start : self._end]


class _Watch:
    """Notes what a layer is given first."""

    most_rows = 1

    def __init__(self, layer: Any, first: dict[int, tuple[Any, mx.array]]) -> None:
        self._layer = layer
        self._first = first

    def __call__(self, x: mx.array) -> mx.array:
        self._first.setdefault(id(self._layer), (self._layer, x))
        found: mx.array = x @ self._layer.weight.T
        return found
