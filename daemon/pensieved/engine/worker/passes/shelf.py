"""Keys and values of rows that decode together: one array a layer, (rows, heads, capacity, width).

Each row starts at position 0 and has a length of its own; what lies beyond it is never looked at. So a row leaves by
being forgotten and joins by being copied in, nothing is ever shifted, and a step writes each row's new position with
one scatter a layer. Rows of very different lengths are kept on different shelves: one long conversation must not
stretch the arrays of all others.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pensieved.engine.worker.passes.shapes import Shapes


AT_ONCE = 32 * 1024**2
"""Bytes of arrays that are made anew together."""


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
    def sides(self) -> tuple[list[mx.array], list[mx.array]]:
        """Keys and values."""
        return self.keys, self.values

    @property
    def arrays(self) -> list[mx.array]:
        """Everything, to be evaluated."""
        return [*self.keys, *self.values]

    @property
    def layers(self) -> list[list[mx.array]]:
        """The same by layers."""
        return [list(layer) for layer in zip(self.keys, self.values, strict=True)]

    def copy(self) -> Cells:
        """The same arrays, in lists of its own."""
        return Cells(list(self.keys), list(self.values))

    def let_go(self) -> None:
        """Refer to no array any more."""
        self.keys, self.values = [], []

    def stretch(self, capacity: int, *, lazily: bool = False) -> None:
        """Have room for more tokens in each row; `lazily`: made with whatever needs it, and not before."""
        if not lazily:
            self.remake(lambda side, layer: _with_room(self.sides[side][layer], capacity))
            return
        for arrays in self.sides:
            arrays[:] = [_with_room(array, capacity) for array in arrays]

    def remake(self, make: Callable[[int, int], mx.array]) -> None:
        """Make every array anew, in place, a few layers at a time: no more than these are in memory twice.

        Args:
            make: returns the array of a side and a layer; it is asked for keys before values, layer by layer.
        """
        ahead: list[mx.array] = []  # what the device works at while the next are prepared
        pending: list[mx.array] = []
        size = 0
        for side, arrays in enumerate(self.sides):
            for layer in range(len(arrays)):
                arrays[layer] = make(side, layer)
                pending.append(arrays[layer])
                size += arrays[layer].nbytes
                if size >= AT_ONCE:
                    mx.async_eval(pending)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
                    mx.eval(ahead)
                    ahead, pending, size = pending, [], 0

    def put(self, row: int, other: Cells, source: int, length: int) -> None:
        """Copy the first `length` positions of a row of `other` over those of `row`."""
        for mine, theirs in zip(self.sides, other.sides, strict=True):
            for layer, array in enumerate(theirs):
                mine[layer][row, :, :length] = array[source, :, :length]


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
            coming: new ones: the cells they are in, which lose their arrays to the shelf, their row there, and their length.
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
            self._gather(keep, coming, rows, capacity)
        self.lengths = [None] * rows
        for place, length in zip(places, lengths, strict=True):
            self.lengths[place] = length
        self.offsets = _on_device(self.lengths)
        return places

    def _gather(
        self, keep: Sequence[int], coming: Sequence[tuple[Cells, int, int]], rows: int, capacity: int
    ) -> None:
        """Bring together what is kept and what comes, in rows of this capacity; what was copied is let go of layer by layer."""
        parts = [(self.cells, list(keep))] if keep else []
        for _, together in groupby(coming, key=lambda each: id(each[0])):
            of_one = list(together)
            parts.append((of_one[0][0], [source for _, source, _ in of_one]))
        first, sources = parts[0]
        if (
            len(parts) == 1
            and sources == list(range(rows))
            and (first.rows, first.capacity) == (rows, capacity)
        ):
            self.cells = first  # just what is wanted
            return
        left = [(deque(cells.arrays), sources) for cells, sources in parts]
        for cells, _, _ in coming:
            cells.let_go()

        def gathered(_side: int, _layer: int) -> mx.array:
            found = [_taken(arrays.popleft(), sources) for arrays, sources in left]
            return _joined([_with_room(array, capacity) for array in found], rows)

        self.cells.remake(gathered)


def _taken(array: mx.array, rows: Sequence[int]) -> mx.array:
    """Copies of some rows, in that order."""
    return array if rows == list(range(array.shape[0])) else array[mx.array(list(rows))]


def _joined(arrays: list[mx.array], rows: int) -> mx.array:
    """All rows, and empty ones up to `rows`."""
    missing = rows - sum(array.shape[0] for array in arrays)
    if missing:
        arrays = [*arrays, mx.zeros((missing, *arrays[0].shape[1:]), arrays[0].dtype)]
    return arrays[0] if len(arrays) == 1 else mx.concatenate(arrays, axis=0)


def _with_room(array: mx.array, capacity: int) -> mx.array:
    missing = capacity - array.shape[2]
    if missing <= 0:
        return array[:, :, :capacity] if missing else array
    return mx.pad(array, [(0, 0), (0, 0), (0, missing), (0, 0)])


def _on_device(lengths: Sequence[int | None]) -> mx.array:
    return mx.array([length or 0 for length in lengths], dtype=mx.int32)
