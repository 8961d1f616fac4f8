"""The pass that carries drafts: each drafted token is one more row, behind the token of the request that it belongs to.

It writes keys and values at its own position and sees those before it, so its logits are what they would be if the draft
were true so far. Where it is not, nothing has to be undone: the row's length says how far it holds, and positions beyond
are never looked at and written again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from pensieved.engine.worker.passes.attention import Attention
from pensieved.engine.worker.passes.onepass import Decoding
from pensieved.engine.worker.passes.shelf import Cells
from pensieved.engine.worker.passes.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.engine.worker.passes.onepass import Adapted
    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.passes.shelf import Shelf

Draft = tuple[int, "Sequence[int]"]
"""A row's place in the pass, and the tokens drafted for it."""
Layout = tuple[tuple[tuple[int, int], ...], ...]
"""For each shelf, its rows that have a draft, and how long that is."""
MOST_TRACES = 32
"""Shapes of which the compiled pass is kept."""


class Ahead:
    """Tokens drafted for one row of a shelf; a `Part` of a pass.

    Args:
        cells: the shelf's, shared with the part that decodes it.
        row: which one.
        offset: position of the row's own token, an array of no dimension.
        length: tokens.
        shapes: the device's policy.
    """

    def __init__(self, cells: Cells, row: int, offset: mx.array, length: int, shapes: Shapes) -> None:
        self.cells = cells
        self.rows = length
        self.positions = offset + 1 + mx.arange(length)
        self._row = row
        self._at = mx.stack([mx.array(row, dtype=mx.int32), (offset + 1).astype(mx.int32)])
        self._attention = Attention(mx.arange(cells.capacity) <= self.positions[:, None], shapes)

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """See `Part`."""
        for arrays, new in ((self.cells.keys, keys), (self.cells.values, values)):
            piece = new.transpose(2, 1, 0, 3).astype(arrays[layer].dtype)
            arrays[layer] = mx.slice_update(arrays[layer], piece, self._at, (0, 2))

    def attend(self, layer: int, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """See `Part`."""
        out = self._attention(
            queries.transpose(2, 1, 0, 3),
            self.cells.keys[layer][self._row : self._row + 1],
            self.cells.values[layer][self._row : self._row + 1],
            scale,
            sinks,
        )
        return out.transpose(2, 1, 0, 3)


class Verifier:
    """Runs passes with drafts.

    Args:
        adapted: the model.
        shapes: the device's policy.
    """

    def __init__(self, adapted: Adapted, shapes: Shapes) -> None:
        self._adapted = adapted
        self._shapes = shapes
        self._traces = Traces(MOST_TRACES)

    def run(
        self, shelves: Sequence[Shelf], tokens: mx.array, drafts: Sequence[Draft]
    ) -> tuple[mx.array, list[int], bool]:
        """One pass.

        Args:
            shelves: all rows; what they hold stays as long as it was until `Shelf.advance` is told otherwise.
            tokens: the next token of every row.
            drafts: of some of the rows.

        Returns:
            The logits, those of all rows first, then those of the drafted tokens; for each draft the row where its own
            begin; and whether a pass like this was run before, so that its time means something.
        """
        layout, order = _laid_out(shelves, drafts)
        for shelf, rows in zip(shelves, layout, strict=True):
            shelf.make_room(self._shapes, 1 + max((length for _, length in rows), default=0))
        key = layout, tuple((shelf.cells.rows, shelf.cells.capacity) for shelf in shelves)
        met = not self._shapes.compiled or key in self._traces
        ids = mx.array([token for index in order for token in drafts[index][1]], dtype=tokens.dtype)
        cells = [(shelf.cells.keys, shelf.cells.values) for shelf in shelves]
        logits, cells = self._trace(key)(mx.concatenate([tokens, ids]), [s.offsets for s in shelves], cells)
        for shelf, (keys, values) in zip(shelves, cells, strict=True):
            shelf.cells = Cells(keys, values)
        starts, row = [0] * len(drafts), tokens.size
        for index in order:
            starts[index] = row
            row += len(drafts[index][1])
        return logits, starts, met

    def _trace(self, key: Any) -> Any:
        plain = partial(self._pass, key[0])
        if not self._shapes.compiled:
            return plain
        return self._traces.of(key, plain)

    def _pass(self, layout: Layout, tokens: mx.array, offsets: list[mx.array], cells: list[Any]) -> Any:
        """All that it reads or changes is an argument or a result, but for the weights; see `Flat`'s."""
        rows = [
            Decoding(Cells(keys, values), offset, self._shapes)
            for (keys, values), offset in zip(cells, offsets, strict=True)
        ]
        ahead = [
            Ahead(part.cells, row, offset[row], length, self._shapes)
            for part, offset, drafted in zip(rows, offsets, layout, strict=True)
            for row, length in drafted
        ]
        logits = self._adapted.forward(
            [*rows, *ahead],
            tokens=tokens,
            offsets=mx.concatenate([*offsets, *(part.positions for part in ahead)]),
            rows=tokens.size,
        )
        return logits, [(part.cells.keys, part.cells.values) for part in rows]


def _laid_out(shelves: Sequence[Shelf], drafts: Sequence[Draft]) -> tuple[Layout, list[int]]:
    """Where drafts belong, and the order in which they come then."""
    layout: list[tuple[tuple[int, int], ...]] = []
    order: list[int] = []
    base = 0
    for shelf in shelves:
        rows = shelf.cells.rows
        mine = [index for index, (place, _) in enumerate(drafts) if base <= place < base + rows]
        layout.append(tuple((drafts[index][0] - base, len(drafts[index][1])) for index in mine))
        order += mine
        base += rows
    return tuple(layout), order
