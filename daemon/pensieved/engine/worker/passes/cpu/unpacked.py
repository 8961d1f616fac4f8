"""Products of few rows with weights that nobody copies first.

OpenBLAS copies what it multiplies into an order of its own. With few rows that takes longer than the product. For processors
with AVX-512 it also has kernels that take matrices as they lie, but only small ones, and on one thread. So the weights are cut
into slices that are small enough. MLX multiplies those of one array one after the other; several of its streams, each with its
share of them, do so side by side.
"""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx

MOST_ROWS = 16
"""Rows beyond which the copy costs less than what small products take longer."""
LARGEST = 1_000_000
"""Multiplications in the largest product that OpenBLAS's small kernels take, in its `sgemm_small_kernel_permit` for SkylakeX."""
LARGEST_RESULT = 1200
"""Numbers in the largest result, by the same source."""
LONGEST = 48
"""Outputs of a slice at the most: longer ones are not faster."""
SHORTEST = 8
"""Outputs of a slice at the least: with shorter ones the calls would count."""


class Lanes:
    """Streams of MLX's CPU backend that work side by side. The first is whichever one the caller's arrays are made in.

    Args:
        count: how many, at least 1.
    """

    def __init__(self, count: int) -> None:
        self.streams: list[mx.Stream | None] = [None, *(mx.new_stream(mx.cpu) for _ in range(count - 1))]

    def edges(self, size: int) -> list[int]:
        """Where each lane's part of `size` begins, and the end."""
        lanes = len(self.streams)
        return [size * place // lanes for place in range(lanes + 1)]


class Product:
    """`x @ weight.T` for few rows.

    Args:
        weight: (outputs, inputs), float32, and such that it `fits`.
        lanes: what computes it.

    Attributes:
        most_rows: how many it can be used for.
    """

    def __init__(self, weight: mx.array, lanes: Lanes) -> None:
        outputs, inputs = weight.shape
        length = _slice_length(outputs, inputs)
        self.most_rows = min(MOST_ROWS, LARGEST // (length * inputs), LARGEST_RESULT // length)
        slices = weight.reshape(-1, length, inputs).swapaxes(1, 2)
        parts = zip(pairwise(lanes.edges(len(slices))), lanes.streams, strict=True)
        self._parts = [(slices[start:end], stream) for (start, end), stream in parts if start < end]
        mx.eval([part for part, _ in self._parts])  # views: nothing is copied

    @staticmethod
    def fits(outputs: int, inputs: int) -> bool:
        """Whether weights of this shape can be cut so."""
        return bool(_slice_length(outputs, inputs))

    def __call__(self, x: mx.array) -> mx.array:
        """(…, outputs) for x, (…, inputs), of no more than `most_rows` rows."""
        rows = x.reshape(1, -1, x.shape[-1])
        found = mx.concatenate([_each(rows, *part) for part in self._parts])
        return found.swapaxes(0, 1).reshape(*x.shape[:-1], -1)


def _each(rows: mx.array, slices: mx.array, stream: mx.Stream | None) -> mx.array:
    """(slices, rows, outputs). `rows` is made as many matrices as there are slices, or MLX would take these for one again."""
    many = mx.broadcast_to(rows, (slices.shape[0], *rows.shape[1:]), stream=stream)
    return mx.matmul(many, slices, stream=stream)


def _slice_length(outputs: int, inputs: int) -> int:
    """Outputs of a slice, a divisor of all; 0 where there is none that is worth it."""
    longest = min(LONGEST, max(SHORTEST, LARGEST // (MOST_ROWS * inputs)))
    return next((length for length in range(longest, SHORTEST - 1, -1) if outputs % length == 0), 0)
