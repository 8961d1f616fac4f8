"""The KV caches of all requests, and the pass that serves them, for models with plain KV caches.

Where it pays, a pass of nothing but decoding rows goes through `mx.compile`: with the caches as its arguments and
results, and positions and lengths as arrays, one trace serves every step of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from pensieved.engine.worker.passes.ahead import Verifier
from pensieved.engine.worker.passes.cpu import attention
from pensieved.engine.worker.passes.cpu.meanwhile import computed_meanwhile
from pensieved.engine.worker.passes.onepass import Adapted, Decoding, Prompting, PromptingAt
from pensieved.engine.worker.passes.shapes import PLAIN
from pensieved.engine.worker.passes.shelf import Cells, Shelf
from pensieved.engine.worker.passes.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pensieved.engine.worker.passes.ahead import Draft
    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.running import Snapshot

MOST_TRACES = 256
"""Shapes of which the compiled step is kept."""


@dataclass(frozen=True)
class ChunkShape:
    """What a pass must know of a chunk of prompts before it is traced.

    Attributes:
        length: tokens of each of its prompts, padding included.
        reach: positions that it looks at.
        start: its first position, where the pass is for this one alone.
        ends: whether the logits of its last tokens are wanted.
    """

    length: int
    reach: int
    start: int | None
    ends: bool = False

    def part(self, cells: Cells, positions: mx.array, shapes: Shapes) -> Prompting:
        """The chunk as part of a pass."""
        if self.start is None:
            return PromptingAt(cells, positions, self.reach, shapes)
        return Prompting(cells, self.start, self.length, shapes)


class FlatPrompt:
    """A group of prompts while it is computed: all rows have come equally far."""

    def __init__(self, cells: Cells, done: int) -> None:
        self.cells = cells
        self.done = done


class Flat:
    """Runs passes; a `Runner`.

    Args:
        model: one with plain KV caches; `fitting` finds out whether it works.
        shapes: the device's policy.
    """

    def __init__(self, model: Any, shapes: Shapes) -> None:
        self._shapes = shapes
        self._adapted = Adapted(model)
        self._blank = _blank_layers(model)
        self._shelves: list[Shelf] = []
        self._traces = Traces(MOST_TRACES)
        self._together = 0  # passes of those who decode since somebody joined them
        self._verifier = Verifier(self._adapted, shapes)

    @property
    def width(self) -> int:
        """Rows of a pass that decode, unused ones included."""
        return sum(shelf.cells.rows for shelf in self._shelves)

    def open(self, lengths: Sequence[int], prefix: Snapshot | None = None, cached: int = 0) -> FlatPrompt:
        """Room for prompts of these lengths to be computed together, from position `cached` on.

        Args:
            lengths: tokens of each.
            prefix: what they start from, if anything; of just the room that they need, it is what they are computed in.
            cached: tokens of that which they start from.
        """
        rows, capacity = len(lengths), self._shapes.prompt_capacity(cached, max(lengths))
        if prefix is not None and prefix[0].keys.shape[2] == capacity:
            return FlatPrompt(
                Cells([layer.keys for layer in prefix], [layer.values for layer in prefix]), cached
            )
        left = Cells(
            *(
                [mx.zeros((rows, heads, capacity - cached, width), kind) for heads, width, kind in side]
                for side in zip(*self._blank, strict=True)
            )
        )
        if prefix is None:
            return FlatPrompt(left, cached)
        known = [layer.keys for layer in prefix], [layer.values for layer in prefix]
        cells = (
            [mx.concatenate([array[:, :, :cached], more], axis=2) for array, more in zip(*each, strict=True)]
            for each in zip(known, left.sides, strict=True)
        )
        return FlatPrompt(Cells(*cells), cached)

    def waits(self, work: Sequence[tuple[FlatPrompt, int]]) -> bool:
        """Whether a pass of those who decode, and of chunks of prompts, is all but computed when `run` returns.

        Args:
            work: for each group, the next tokens of each of its rows.
        """
        return self._any_at_once(self._shelves, work)

    def pauses(self, work: Sequence[tuple[FlatPrompt, int]]) -> bool:
        """Whether a pass of such chunks alone is, too, and may pause on the way (see `pauses`)."""
        chunks = [(prompt.cells.rows * length, prompt.done + length) for prompt, length in work]
        many = self._shapes.are_at_once(sum(tokens for tokens, _ in chunks))
        return self._suits and (many or any(self._shapes.is_at_once(*chunk) for chunk in chunks))

    def run(
        self,
        tokens: mx.array | None,
        work: Sequence[tuple[FlatPrompt, Sequence[Sequence[int]]]],
        *,
        in_parts: bool = False,
        ends: Collection[int] = (),
    ) -> tuple[mx.array | None, list[list[mx.array]]]:
        """The next token of every decoding row, and chunks of prompts: in one pass, or each apart (see `shapes`).

        Args:
            tokens: (width,), or None where nobody decodes.
            work: for each group, the next ids of each of its rows; rows that have no more bring fewer.
            in_parts: whether layers of a chunk are computed one after the other: then each gets more room when it is its turn.
            ends: groups, by their places in `work`, whose chunks are of equal lengths and bring the prompts' last tokens: their
                logits are wanted, too. Not where chunks are passes of their own.

        Returns:
            The logits, (width, vocabulary), then those of `ends`, a row each; and what must be evaluated besides them: that
            of decoding rows, then each layer of each chunk.
        """
        if not self._shapes.apart:
            return self._run(tokens, work, ends=ends)
        logits, rest = self._run(tokens, []) if tokens is not None else (None, [[]])
        for each in work:
            rest += self._run(None, [each], in_parts=in_parts)[1][1:]
        return logits, rest

    def _any_at_once(self, shelves: Sequence[Shelf], work: Sequence[tuple[FlatPrompt, int]]) -> bool:
        attending = [(shelf.cells.rows, shelf.cells.capacity) for shelf in shelves]
        decoding = self._suits and any(self._shapes.is_at_once(*each) for each in attending)
        return decoding or self.pauses(work)

    @property
    def _suits(self) -> bool:
        (_, _, kind), _ = self._blank[0]
        return attention.suits(kind)

    def _run(
        self,
        tokens: mx.array | None,
        work: Sequence[tuple[FlatPrompt, Sequence[Sequence[int]]]],
        *,
        in_parts: bool = False,
        ends: Collection[int] = (),
    ) -> tuple[mx.array | None, list[list[mx.array]]]:
        """One pass."""
        shelves = self._shelves if tokens is not None else []
        for shelf in shelves:
            shelf.make_room(self._shapes)
        cells = [(shelf.cells.keys, shelf.cells.values) for shelf in shelves]
        at_once = self._any_at_once(shelves, [(prompt, max(map(len, rows))) for prompt, rows in work])
        shapes, chunks = self._chunks(work, in_parts=in_parts, ends=ends)
        if self._shapes.apart:
            self._set_off(tokens, shelves, [] if in_parts else work)
        key = (
            tuple((shelf.cells.rows, shelf.cells.capacity) for shelf in shelves),
            tuple((prompt.cells.rows, prompt.cells.capacity) for prompt, _ in work),
            shapes,
        )
        if shelves:
            self._together += 1
        trace = self._trace(key, shapes)
        with computed_meanwhile(at_once):
            logits, cells, prompts = trace(tokens, [shelf.offsets for shelf in shelves], cells, chunks)
        for shelf, (keys, values) in zip(shelves, cells, strict=True):
            shelf.offsets, shelf.cells = shelf.offsets + 1, Cells(keys, values)
            shelf.advance()
        for (prompt, _), (keys, values) in zip(work, prompts, strict=True):
            prompt.cells = Cells(keys, values)
        rest = [[shelf.offsets for shelf in shelves]]
        rest += [layer for prompt, _ in work for layer in prompt.cells.layers]
        return (logits[0] if logits else None), rest

    @staticmethod
    def _set_off(
        tokens: mx.array | None, shelves: Sequence[Shelf], work: Sequence[tuple[FlatPrompt, Any]]
    ) -> None:
        """Compute what a pass starts from, before it.

        MLX puts so many launches into a CUDA graph, in their order, and looks whether it has made the same graph before. So a
        pass should begin a graph: behind copies of rows, whose number varies, all its graphs would be new ones.
        """
        cells = [*(shelf.cells for shelf in shelves), *(prompt.cells for prompt, _ in work)]
        known = [array for each in cells for array in each.arrays]
        given = [tokens] if tokens is not None else []
        mx.async_eval(given, [shelf.offsets for shelf in shelves], known)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types

    def verify(self, tokens: mx.array, drafts: Sequence[Draft]) -> tuple[mx.array, list[int], bool]:
        """One pass with drafts behind some rows; see `Verifier.run`. `advance` says afterwards what was kept."""
        return self._verifier.run(self._shelves, tokens, drafts)

    def advance(self, kept: Mapping[int, int]) -> None:
        """Count what `verify` computed: each row's token, and so many of those drafted for the row at a place."""
        base = 0
        for shelf in self._shelves:
            shelf.settle({place - base: count for place, count in kept.items()})
            base += shelf.cells.rows

    def arrange(self, keep: Sequence[int], coming: Sequence[tuple[FlatPrompt, int, int]]) -> list[int]:
        """Keep some rows, by their places in the pass, and take in prompts; returns the places of all of them.

        Args:
            keep: places of rows that go on; the others are forgotten.
            coming: new rows: the group each was computed in, its row there, and the tokens it holds. These groups are used up.
        """
        if coming:
            self._together = 0
        plans: list[tuple[Shelf, list[tuple[int, int]], list[tuple[int, FlatPrompt, int, int]]]] = []
        base = 0
        for shelf in self._shelves:
            rows = shelf.cells.rows
            kept = [(order, place - base) for order, place in enumerate(keep) if base <= place < base + rows]
            plans.append((shelf, kept, []))
            base += rows
        plans = [plan for plan in plans if plan[1]]
        for order, (prompt, row, length) in enumerate(coming, start=len(keep)):
            self._plan_for(plans, prompt, length).append((order, prompt, row, length))
        return self._carry_out(plans, len(keep) + len(coming))

    def _plan_for(self, plans: list[Any], prompt: FlatPrompt, length: int) -> list[Any]:
        """The newcomers of the shelf that suits a row of this length best."""

        def longest(plan: Any) -> int:
            shelf, kept, newcomers = plan
            lengths = [*(shelf.lengths[row] for _, row in kept), *(each[3] for each in newcomers)]
            return int(max(lengths))

        def unlikeness(plan: Any) -> float:
            return self._shapes.unlikeness(length, longest(plan))

        best = min(plans, key=unlikeness, default=None)
        full = len(plans) >= self._shapes.shelves
        if best is None or not (full or self._shapes.alike(length, longest(best))):
            keys, values = ([array[:0] for array in each] for each in prompt.cells.sides)
            empty = Shelf(Cells(keys, values), [])
            best = (empty, [], [])
            plans.append(best)
        newcomers: list[Any] = best[2]
        return newcomers

    def _carry_out(self, plans: Sequence[Any], rows: int) -> list[int]:
        places = [0] * rows
        base = 0
        for (shelf, kept, newcomers), coming in zip(plans, _taken_from_prompts(plans), strict=True):
            found = shelf.arrange([row for _, row in kept], coming, self._shapes)
            orders = [each[0] for each in kept] + [each[0] for each in newcomers]
            for order, place in zip(orders, found, strict=True):
                places[order] = base + place
            base += shelf.cells.rows
        self._shelves = [shelf for shelf, _, _ in plans]
        return places

    def snapshot(self, place: int, start: int = 0, end: int | None = None) -> Snapshot:
        """The KV cache of the row at `place`, copied: from position `start` on, up to `end` or all that there is."""
        for shelf in self._shelves:
            if place < shelf.cells.rows:
                return _cut_out(shelf.cells, place, start, end or shelf.lengths[place] or 0)
            place -= shelf.cells.rows
        raise IndexError(place)

    def prompt_snapshot(
        self, prompt: FlatPrompt, row: int, start: int = 0, end: int | None = None
    ) -> Snapshot:
        """The same of a row of a prompt, as far as it has come."""
        return _cut_out(prompt.cells, row, start, end or prompt.done)

    def _chunks(
        self,
        work: Sequence[tuple[FlatPrompt, Sequence[Sequence[int]]]],
        *,
        in_parts: bool,
        ends: Collection[int],
    ) -> tuple[tuple[ChunkShape, ...], list[Any]]:
        """The shapes of chunks of prompts, and their arrays: ids, positions, keys and values."""
        shapes, chunks = [], []
        for place, (prompt, rows) in enumerate(work):
            length = self._shapes.chunk(max(map(len, rows)), prompt.done)
            reach = self._shapes.reach(prompt.done + length)
            if prompt.cells.capacity < reach:
                prompt.cells.stretch(reach, lazily=in_parts)
            fixed = not self._shapes.padded or reach == length
            shapes.append(ChunkShape(length, reach, prompt.done if fixed else None, place in ends))
            ids = mx.array([[*row, *([0] * (length - len(row)))] for row in rows], dtype=mx.uint32)
            positions = mx.array(list(range(prompt.done, prompt.done + length)), dtype=mx.int32)
            chunks.append((ids, positions, prompt.cells.keys, prompt.cells.values))
            prompt.done += max(map(len, rows))
        return tuple(shapes), chunks

    def _trace(self, key: Any, shapes: tuple[ChunkShape, ...]) -> Any:
        """The pass for arrays of the shapes in `key`, compiled where that pays.

        Tracing takes as long as several steps. Whoever has just joined does not wait for that with a first token, and who
        wants no more than one has nothing of it.
        """
        plain = partial(self._pass, shapes)
        if not self._shapes.compiled or (shapes and not self._shapes.padded):
            return plain  # such a pass hardly comes again
        if not shapes and self._together <= PLAIN and key not in self._traces:
            return plain
        return self._traces.of(key, plain)

    def _pass(
        self,
        shapes: tuple[ChunkShape, ...],
        tokens: mx.array | None,
        offsets: list[mx.array],
        cells: list[Any],
        chunks: list[Any],
    ) -> tuple[Any, ...]:
        """One pass. All that it reads or changes is an argument or a result, but for the weights.

        The lists of arrays it is given hold the new ones afterwards: what is computed while the pass is made would otherwise
        be a copy, since somebody still knew of the old ones.
        """
        shelves = [
            Decoding(Cells(keys, values), offset, self._shapes)
            for (keys, values), offset in zip(cells, offsets, strict=True)
        ]
        prompts, ids, places = [], [] if tokens is None else [tokens], list(offsets)
        row = width = sum(shelf.rows for shelf in shelves)
        lasts: list[int] = []
        for shape, (rows, positions, keys, values) in zip(shapes, chunks, strict=True):
            prompts.append(shape.part(Cells(keys, values), positions, self._shapes))
            last = range(row + shape.length - 1, row + rows.size, shape.length)
            lasts += last if shape.ends else ()
            row += rows.size
            ids.append(rows.reshape(-1))
            places.append(mx.broadcast_to(positions, rows.shape).reshape(-1))
        logits = self._adapted.forward(
            [*shelves, *prompts],
            tokens=mx.concatenate(ids),
            offsets=mx.concatenate(places),
            rows=width,
            more=lasts,
        )
        after = [[(part.cells.keys, part.cells.values) for part in parts] for parts in (shelves, prompts)]
        return [logits] if width or lasts else [], *after


def _taken_from_prompts(plans: Sequence[Any]) -> list[list[tuple[Cells, int, int]]]:
    """Each shelf's newcomers: cells, row there and length. Nobody else refers to those arrays then, so they go as they are copied."""
    taken = []
    for _, _, newcomers in plans:
        cells = {id(prompt): prompt.cells.copy() for _, prompt, _, _ in newcomers}
        taken.append([(cells[id(prompt)], row, length) for _, prompt, row, length in newcomers])
    for _, _, newcomers in plans:
        for _, prompt, _, _ in newcomers:
            prompt.cells.let_go()
    return taken


def _cut_out(cells: Cells, row: int, start: int, end: int) -> Snapshot:
    snapshot = []
    for keys, values in zip(cells.keys, cells.values, strict=True):
        layer: Any = KVCache()  # type: ignore[no-untyped-call]  # mlx-lm has no types
        layer.keys = mx.contiguous(keys[row : row + 1, :, start:end])
        layer.values = mx.contiguous(values[row : row + 1, :, start:end])
        layer.offset = end - start
        snapshot.append(layer)
    return snapshot


def _blank_layers(model: Any) -> list[Any]:
    """(heads, width, type) of each layer's keys and values. Lazy: nothing is computed for its shape."""
    caches = make_prompt_cache(model)
    model(mx.array([[0]]), cache=caches)
    return [
        tuple((array.shape[1], array.shape[3], array.dtype) for array in (layer.keys, layer.values))
        for layer in caches
    ]
