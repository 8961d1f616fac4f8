"""Keys and values of rows that decode together: one array a layer, (rows, heads, capacity, width).

Each row starts at position 0 and has a length of its own; what lies beyond it is never looked at. So a row leaves by
being forgotten and joins by being copied in, nothing is ever shifted, and a step writes each row's new position with
one scatter a layer. Rows of very different lengths are kept on different shelves: one long conversation must not
stretch the arrays of all others.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pensieved.engine.worker.shapes import Shapes


AT_ONCE = 32 * 1024**2
"""Bytes of arrays that are made larger together."""


class Cells:
    """Keys and values of some rows, of all layers: `keys[layer]` is (rows, heads, capacity, width)."""

    def __init__(self, keys: list[mx.array], values: list[mx.array]) -> None:
        self.keys = keys
        self.values = values

    @property
    def rows(self) -> int:
        """Rows, used or not."""
        return int(self.keys[0].shape[0])

    @property
    def capacity(self) -> int:
        """Tokens for which each row has room."""
        return int(self.keys[0].shape[2])

    @property
    def arrays(self) -> list[mx.array]:
        """Everything, to be evaluated."""
        return [*self.keys, *self.values]

    def stretched(self, capacity: int) -> Cells:
        """The same rows with another capacity; what does not fit is cut off."""
        return Cells(*([_with_room(array, capacity) for array in each] for each in (self.keys, self.values)))

    def stretch(self, capacity: int) -> None:
        """Have room for more, in place, a few layers at a time: no more than these are in memory twice."""
        pending, size = [], 0
        for arrays in (self.keys, self.values):
            for layer, array in enumerate(arrays):
                arrays[layer] = _with_room(array, capacity)
                pending.append(arrays[layer])
                size += arrays[layer].nbytes
                if size >= AT_ONCE:
                    del array
                    mx.eval(pending)
                    pending, size = [], 0

    def taken(self, rows: Sequence[int]) -> Cells:
        """Copies of some of the rows, in that order."""
        if list(rows) == list(range(self.rows)):
            return self
        index = mx.array(list(rows))
        return Cells([array[index] for array in self.keys], [array[index] for array in self.values])

    def put(self, row: int, other: Cells, source: int, length: int) -> None:
        """Copy the first `length` positions of a row of `other` over those of `row`."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for layer, array in enumerate(theirs):
                mine[layer][row, :, :length] = array[source, :, :length]


def joined(parts: Sequence[Cells], rows: int) -> Cells:
    """All rows of `parts`, of the same capacity, and empty ones up to `rows`."""
    missing = rows - sum(part.rows for part in parts)
    if len(parts) == 1 and not missing:
        return parts[0]

    def join(arrays: list[mx.array]) -> mx.array:
        if missing:
            _, *shape = arrays[0].shape
            arrays = [*arrays, mx.zeros((missing, *shape), arrays[0].dtype)]
        return mx.concatenate(arrays, axis=0)

    layers = range(len(parts[0].keys))
    return Cells(
        [join([part.keys[layer] for part in parts]) for layer in layers],
        [join([part.values[layer] for part in parts]) for layer in layers],
    )


class Shelf:
    """Rows of similar lengths that decode.

    Attributes:
        cells: their keys and values.
        lengths: tokens that each row holds; None where the row is free.
        offsets: the same on the device, (rows,); free rows count from 0, which is as far as they ever get.
    """

    def __init__(self, cells: Cells, lengths: Sequence[int | None]) -> None:
        self.cells = cells
        self.lengths = list(lengths)
        self.offsets = _on_device(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return max((length for length in self.lengths if length is not None), default=0)

    def advance(self) -> None:
        """Count the token that each row got."""
        self.lengths = [None if length is None else length + 1 for length in self.lengths]

    def settle(self, more: Mapping[int, int]) -> None:
        """Count the token that each row got, and those that some rows got besides."""
        self.lengths = [
            None if length is None else length + 1 + more.get(row, 0)
            for row, length in enumerate(self.lengths)
        ]
        self.offsets = _on_device(self.lengths)

    def make_room(self, shapes: Shapes, tokens: int = 1) -> None:
        """Have room for so many more tokens in each row."""
        if self.longest + tokens > self.cells.capacity:
            self.cells.stretch(shapes.capacity(self.longest + tokens))

    def arrange(
        self, keep: Sequence[int], coming: Sequence[tuple[Cells, int, int]], shapes: Shapes
    ) -> list[int]:
        """Keep some rows, take in others; returns where all of them are now.

        Args:
            keep: rows that go on.
            coming: new ones: the cells they are in, their row there, and their length.
            shapes: how many rows and how much room to have.
        """
        lengths = [self.lengths[row] or 0 for row in keep] + [length for _, _, length in coming]
        rows = shapes.rows(len(lengths))
        capacity = shapes.capacity(max(lengths, default=0) + 1)
        if rows == self.cells.rows and capacity <= self.cells.capacity < 2 * capacity:
            free = [row for row in range(rows) if row not in keep]
            places = [*keep, *free[: len(coming)]]
            for place, (cells, source, length) in zip(free, coming, strict=False):
                self.cells.put(place, cells, source, length)
        else:
            places = list(range(len(lengths)))
            self.cells = joined([part.stretched(capacity) for part in self._parts(keep, coming)], rows)
        self.lengths = [None] * rows
        for place, length in zip(places, lengths, strict=True):
            self.lengths[place] = length
        self.offsets = _on_device(self.lengths)
        return places

    def _parts(self, keep: Sequence[int], coming: Sequence[tuple[Cells, int, int]]) -> list[Cells]:
        """The rows to be joined, those that are together already in one piece."""
        parts = [self.cells.taken(keep)] if keep else []
        for _, together in groupby(coming, key=lambda each: id(each[0])):
            rows = list(together)
            parts.append(rows[0][0].taken([source for _, source, _ in rows]))
        return parts


def _with_room(array: mx.array, capacity: int) -> mx.array:
    missing = capacity - array.shape[2]
    if missing <= 0:
        return array[:, :, :capacity] if missing else array
    return mx.pad(array, [(0, 0), (0, 0), (0, missing), (0, 0)])


def _on_device(lengths: Sequence[int | None]) -> mx.array:
    return mx.array([length or 0 for length in lengths], dtype=mx.int32)
