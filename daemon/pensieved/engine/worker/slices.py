"""A chunk of prompts on its way through the model: a few layers with each step of those who decode.

Where a pass costs its launches, whatever its length, short chunks make a prompt last and long ones make readers wait. But MLX
computes what is asked for and what that depends on: keys and values of the first layers need the first layers alone. So
a long chunk is one pass, asked for in as many parts as readers need: in halves or quarters, so that the same parts come
again, and with them the CUDA graphs that MLX has made of them.

On a CPU a pass with few more rows than those who decode costs nearly as much as one with many. Where a long chunk is computed while
its pass is made, that pauses when readers have waited for long enough, and goes on behind their next step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from pensieved.engine.worker.memory.device import little_ahead
from pensieved.engine.worker.pace import HICCUP, SMALLEST, Pace, Step, mixed
from pensieved.engine.worker.passes.pauses import Paused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pensieved.engine.worker.prefill import Group

MOST = 4
"""Parts of a pass at the most: host and device wait for each other longer, the smaller the parts are."""
CALM = 0.25
"""Weight of a measurement of a part; there are many."""


class Pausing:
    """A pass that pauses.

    Args:
        planned: the groups of prompts in it, and how many tokens of each of their rows.
        make: makes and computes it; what it results in comes last of what that returns.
    """

    def __init__(self, planned: Sequence[tuple[Group, int]], make: Callable[[], tuple[Any, Any]]) -> None:
        self.planned = planned
        self._pass = Paused(make)

    def go_on(self, seconds: float) -> bool:
        """Compute more of it, for about so long; whether all is."""
        if not self._pass.go_on(seconds):
            return False
        mx.eval(self._pass.result[-1])
        return True

    @property
    def ends(self) -> bool:
        """Whether it computes all its prompts to their ends."""
        return _end(self.planned)

    def dropped(self) -> bool:
        """Whether nobody waits for it any more; what it holds is let go of then."""
        in_vain = _in_vain(self.planned)
        if in_vain:
            self._pass.give_up()
        return in_vain


class Slices:
    """What is left of a pass in parts.

    Args:
        planned: the groups of prompts in it, and how many tokens of each of their rows.
        layers: what it results in, layer by layer.
        tokens: all of them.
        parts: in which it is to be computed.
    """

    def __init__(
        self,
        planned: Sequence[tuple[Group, int]],
        layers: Sequence[Sequence[mx.array]],
        tokens: int,
        parts: int,
    ) -> None:
        self.planned = planned
        self.tokens = tokens
        self._all = len(layers)
        self._each = math.ceil(self._all / parts)
        self._left = list(layers)

    def __bool__(self) -> bool:
        return bool(self._left)

    @property
    def in_vain(self) -> bool:
        """Whether nobody waits for it any more."""
        return _in_vain(self.planned)

    @property
    def begins_and_ends(self) -> bool:
        """Whether it is all that its prompts have to be computed."""
        return _end(self.planned) and all(group.done == group.rows[0].cached for group, _ in self.planned)

    def take(self, *, everything: bool) -> tuple[list[Sequence[mx.array]], float]:
        """What to compute next: a part, or all that is left; and which share of the pass that is."""
        count = len(self._left) if everything else self._each
        taken, self._left = self._left[:count], self._left[count:]
        return taken, len(taken) / self._all


def _end(planned: Sequence[tuple[Group, int]]) -> bool:
    return all(group.left <= length for group, length in planned)


def _in_vain(planned: Sequence[tuple[Group, int]]) -> bool:
    return all(group.is_gone for group, _ in planned)


def set_off(
    chosen: tuple[mx.array, dict[int, mx.array]] | None,
    decoded: Sequence[mx.array],
    part: Sequence[Sequence[mx.array]],
    *,
    apart: bool,
    closely: bool,
) -> None:
    """Have the device compute a step, and wait for it only where nobody decodes.

    Args:
        chosen: the tokens of those who decode, and what is read besides.
        decoded: what else their pass results in, and first tokens of answers.
        part: keys and values of prompts, layer by layer.
        apart: whether those are a pass of their own.
        closely: see `little_ahead`.
    """
    if chosen is None:
        with little_ahead(part, closely=closely):
            mx.eval(decoded, part)
    elif not (apart and part):
        mx.async_eval(chosen, decoded, part)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
    else:
        mx.async_eval(chosen, decoded)  # type: ignore[no-untyped-call]  # else both would be launched layer by layer, in turns
        with little_ahead(part, closely=closely):
            mx.async_eval(part)  # type: ignore[no-untyped-call]


class SlicedPace(Pace):
    """Says in how many parts chunks are computed, which are always as long as may be."""

    def __init__(self, chunk: int, idle_chunk: int, smallest: int = SMALLEST) -> None:
        super().__init__(chunk, idle_chunk, smallest)
        # By the binary logarithm of a chunk's tokens, what all its parts together add to steps.
        self._whole: dict[int, float] = {}

    def budget(self, rows: int, waiting: int = 1) -> int:
        """See `Pace.budget`."""
        known = rows and self.trying is None and self.bound(rows, waiting)
        return self._chunk if known else super().budget(rows, waiting)

    def parts(self, rows: int, waiting: int, tokens: int) -> int:
        """See `Pace.parts`: as few as let a step be as long as readers bear."""
        bound = self.bound(rows, waiting) if rows and self.trying is None else 0.0
        whole = self._whole.get(tokens.bit_length())
        if not bound or whole is None or whole <= bound:
            return 1
        return min(MOST, 1 << math.ceil(math.log2(whole / bound)))

    def _learn(self, last: Step, step: Step, plain: float) -> None:
        # Of two steps, since which of them a device was late with is not seen.
        share = (last.share + step.share) / 2
        whole = max(0.0, (last.seconds + step.seconds) / 2 - plain) / share
        size = step.tokens.bit_length()
        known = self._whole.get(size)
        if known is None or share == 1:
            self._whole[size] = mixed(known, whole)
        else:
            self._whole[size] = known + (min(whole, HICCUP * known) - known) * CALM
