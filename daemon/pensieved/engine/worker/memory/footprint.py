"""How many bytes of KV cache requests take: known before they begin, from the caches that the model makes.

Each layer's cache is filled with two lengths of prompt, on paper only: MLX computes nothing until somebody asks, but the shapes
are there. What grew between the two is a layer's share of a token, what did not is its share of a request. For plain KV
caches that is exact. A sliding window grows up to its size. For caches that grow in another way it is an estimate,
as good as the two lengths; what requests really hold is measured besides (`guard`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from pensieved.engine.worker.passes.flat import Flat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pensieved.engine.worker.passes.shapes import Shapes

STEP = 256
"""Tokens by which mlx-lm's own caches grow."""
ENDLESS = 1 << 62
"""Tokens that fit where a request takes the same memory at any length."""


@dataclass(frozen=True)
class Layer:
    """Bytes of one layer's cache: of each token, up to `limit` of them, and of the request itself."""

    token: int
    request: int
    limit: int | None

    def size(self, capacity: int) -> int:
        """Bytes of a row with room for `capacity` tokens."""
        return self.request + self.token * (capacity if self.limit is None else min(capacity, self.limit))


class Footprint:
    """Bytes that requests take.

    Args:
        layers: of the model's caches.
        capacity: tokens for which a row that needs so many has room.
        prompt: the same while its prompt is computed.
        rows: rows of a shelf of so many requests.
        alike: whether requests of two lengths share a shelf.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        capacity: Callable[[int], int],
        prompt: Callable[[int], int],
        rows: Callable[[int], int],
        alike: Callable[[int, int], bool] = lambda *_: True,
    ) -> None:
        self._layers = tuple(layers)
        self._capacity = capacity
        self._prompt = prompt
        self._rows = rows
        self._alike = alike

    @property
    def token(self) -> int:
        """Bytes of a token of a short request."""
        return sum(layer.token for layer in self._layers)

    def row(self, tokens: int) -> int:
        """Bytes of a request that has come to `tokens`, by itself."""
        return self._size(self._capacity(tokens))

    def prompt(self, tokens: int) -> int:
        """Bytes of a prompt of `tokens` while it is computed."""
        return self._size(self._prompt(tokens))

    def together(self, lengths: Sequence[int]) -> int:
        """Bytes of requests of these lengths that decode together: those of similar lengths share the longest one's room."""
        total = 0
        shelf: list[int] = []
        for length in sorted(lengths, reverse=True):
            if shelf and not self._alike(shelf[0], length):
                total += self._shelf(shelf)
                shelf = []
            shelf.append(length)
        return total + self._shelf(shelf)

    def fitting(self, room: int) -> int:
        """Tokens of the longest request that fits into `room` bytes."""
        if self._most(ENDLESS) <= room:
            return ENDLESS
        low, high = 0, ENDLESS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._most(middle) <= room else (low, middle)
        return low

    def _most(self, tokens: int) -> int:
        """Bytes of a request of so many tokens, which may have to be computed again as a prompt."""
        return max(self.row(tokens), self.prompt(tokens))

    def _shelf(self, lengths: Sequence[int]) -> int:
        return self._rows(len(lengths)) * self.row(lengths[0]) if lengths else 0

    def _size(self, capacity: int) -> int:
        return sum(layer.size(capacity) for layer in self._layers)


def footprint_of(model: Any, runner: Any, shapes: Shapes) -> Footprint:
    """Of requests to `model` that `runner` runs in these shapes."""
    layers = list(_layers(model))
    if isinstance(runner, Flat):
        return Footprint(
            layers,
            shapes.capacity,
            lambda whole: shapes.prompt_capacity(whole, whole),
            shapes.rows,
            shapes.alike,
        )
    return Footprint(layers, _stepped, _stepped, int)


def _stepped(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _layers(model: Any) -> Iterator[Layer]:
    short, long = _filled(model, STEP), _filled(model, 2 * STEP)
    for before, after in zip(short, long, strict=True):
        token = max(0, after.nbytes - before.nbytes) // STEP
        yield Layer(token, max(0, before.nbytes - token * STEP), getattr(after, "max_size", None))


def _filled(model: Any, tokens: int) -> list[Any]:
    caches = make_prompt_cache(model)
    model(mx.zeros((1, tokens), dtype=mx.uint32), cache=caches)
    return [each for layer in caches for each in _single(layer)]


def _single(layer: Any) -> Iterator[Any]:
    """A cache that is made of several, taken apart."""
    for each in getattr(layer, "caches", (layer,)):
        yield from _single(each) if hasattr(each, "caches") else (each,)
