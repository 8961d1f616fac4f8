"""Passes of the shapes that users will bring, run once before they do.

On the runner itself, without requests: some shapes are met by few, and these are quicker. `warming` says when, and has
requests come and go besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from pensieved.engine.worker.memory.device import little_ahead
from pensieved.engine.worker.passes.kernels import qmm
from pensieved.engine.worker.passes.shapes import CHUNKS, PLAIN
from pensieved.engine.worker.prefill import MOST_TOGETHER
from pensieved.engine.worker.speculation.gain import LENGTHS
from pensieved.engine.worker.speculation.turn import speculation_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.engine.worker.passes.runner import Runner
    from pensieved.engine.worker.passes.shapes import Shapes

SOON = 1024
"""Tokens up to which prompts find their shapes known when the engine is ready."""
LATER = 8192
"""The same for prompts that come while others stream; for all of them, once nobody was there for a while."""


@dataclass(frozen=True)
class Expected:
    """Which requests a batch is to be ready for.

    Attributes:
        rows: requests that decode together at the most.
        idle_chunk: most tokens of a chunk of prefill while nobody decodes.
        busy_chunk: the same while somebody does: a shape that is new then is a pause for all who stream.
        longest: tokens of the longest prompt that memory has room for while this is only a rehearsal; None: of any.
        in_parts: whether chunks are as long as may be while somebody decodes, and computed in parts (see `slices`).
    """

    rows: int
    idle_chunk: int
    busy_chunk: int
    longest: int | None = None
    in_parts: bool = False

    @property
    def later(self) -> int:
        """Tokens of the longest prompt to be met."""
        return LATER if self.longest is None else min(LATER, self.longest)


def first_passes(runner: Runner, shapes: Shapes, expected: Expected) -> Iterator[None]:
    """The passes that a first wave of requests needs, each when the iterator is asked for it.

    Args:
        runner: with nothing in it between two passes.
        shapes: that it follows.
        expected: what to be ready for.
    """
    rows, chunk = expected.rows, expected.busy_chunk
    for count in doubling(rows):
        _decode(runner, count, chunk if count in {1, rows} and not shapes.apart else 0)
        yield
    soon, later = min(SOON, expected.later), expected.later
    yield from _first_chunks(runner, expected, 0, soon)
    yield from _later_chunks(runner, shapes, lengths(expected.idle_chunk), 0, soon)
    yield from _later_chunks(runner, shapes, lengths(chunk), soon, later)
    _resume(runner)
    yield
    if speculation_for(runner, shapes) is not None:
        _verify(runner)
        yield
    if shapes.unpacks and qmm.works():
        yield from qmm.every_size()


def further_passes(runner: Runner, shapes: Shapes, expected: Expected) -> Iterator[None]:
    """The passes of longer prompts; see `first_passes`."""
    soon, later = min(SOON, expected.later), expected.later
    yield from _first_chunks(runner, expected, soon, later)
    rest = [length for length in lengths(expected.idle_chunk) if length > expected.busy_chunk]
    yield from _later_chunks(runner, shapes, rest, soon, later)


def _first_chunks(runner: Runner, expected: Expected, above: int, up_to: int) -> Iterator[None]:
    """Groups of prompts from their first token on, of more than `above` tokens together."""
    most = expected.idle_chunk
    for length in lengths(most):
        for prompts in doubling(max(1, min(expected.rows, MOST_TOGETHER, most // length))):
            if above < length * prompts <= up_to:
                _run(runner, None, runner.open([length] * prompts), [[0] * length] * prompts)
                yield


def _later_chunks(
    runner: Runner, shapes: Shapes, chunks: list[int], above: int, up_to: int
) -> Iterator[None]:
    """A chunk of each length behind as many tokens as make a difference."""
    for length in chunks if shapes.padded else []:
        places = (before for before in range(length, up_to, length) if shapes.chunk(length, before) == length)
        known = {shapes.reach(before + length): before for before in places}
        for reach, before in known.items():
            if above < reach <= up_to:
                prompt = runner.open([before + length])
                prompt.done = before
                _run(runner, None, prompt, [[0] * length])
                yield


def _decode(runner: Runner, rows: int, chunk: int) -> None:
    """Rows that decode, alone and with prompts of up to `chunk` tokens."""
    tokens = _begun(runner, rows)
    for _ in range(PLAIN + 1):
        mx.eval(runner.run(tokens, []))
    for length in lengths(chunk):
        _run(runner, tokens, runner.open([length]), [[0] * length])
    runner.arrange([], [])


def _resume(runner: Runner) -> None:
    """A prompt that goes on from a snapshot and then decodes. What some models keep is of another kind then."""
    (length, *_) = CHUNKS
    prompt = runner.open([length])
    _run(runner, None, prompt, [[0] * length])
    prompt = runner.open([2 * length], runner.prompt_snapshot(prompt, 0), length)
    _run(runner, None, prompt, [[0] * length])
    runner.arrange([], [(prompt, 0, 2 * length)])
    mx.eval(runner.run(mx.zeros((runner.width,), dtype=mx.uint32), []))
    runner.arrange([], [])


def _verify(runner: Any) -> None:
    """Drafts of the shortest lengths: of one token, and of more."""
    tokens = _begun(runner, 1)
    for length in LENGTHS[:2]:
        logits, _, _ = runner.verify(tokens, [(0, [0] * length)])
        mx.eval(logits)
        runner.advance({})
    runner.arrange([], [])


def _begun(runner: Runner, rows: int) -> mx.array:
    """So many rows that decode from now on; tokens for their next pass, (width,)."""
    groups = []
    for start in range(0, rows, MOST_TOGETHER):
        count = min(MOST_TOGETHER, rows - start)
        groups.append((runner.open([2] * count), count))
        _run(runner, None, groups[-1][0], [[0, 0]] * count)
    runner.arrange([], [(group, row, 2) for group, count in groups for row in range(count)])
    return mx.zeros((runner.width,), dtype=mx.uint32)


def _run(runner: Runner, tokens: mx.array | None, group: Any, chunk: list[list[int]]) -> None:
    logits, results = runner.run(tokens, [(group, chunk)])
    with little_ahead(results):
        mx.eval(logits, results)


def lengths(most: int) -> list[int]:
    """Of padded chunks, up to `most` tokens."""
    return [length for length in CHUNKS if length <= most]


def doubling(most: int) -> list[int]:
    """1, 2, 4 and so on below `most`, and that."""
    return sorted({*(1 << power for power in range(most.bit_length()) if 1 << power <= most), most})
