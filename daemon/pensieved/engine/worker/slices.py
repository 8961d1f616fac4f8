"""A chunk of prompts on its way through the model: a few layers with each step of those who decode.

Where a pass costs its launches, whatever its length, short chunks make a prompt last and long ones make readers wait. But MLX
computes what is asked for and what that depends on: keys and values of the first layers need the first layers alone. So
a long chunk is one pass, asked for in as many parts as readers need.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pensieved.engine.worker.pace import HICCUP, SMALLEST, Pace, Step, mixed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import mlx.core as mx

    from pensieved.engine.worker.prefill import Group

LEAST = 1 / 4
"""Share of a pass that always goes along: host and device wait for each other longer, the smaller the parts are."""
CALM = 0.25
"""Weight of a measurement of a part; there are many."""


class Slices:
    """What is left of such a pass.

    Args:
        planned: the groups of prompts in it, and how many tokens of each of their rows.
        layers: what it results in, layer by layer.
        tokens: all of them.
    """

    def __init__(
        self, planned: Sequence[tuple[Group, int]], layers: Sequence[Sequence[mx.array]], tokens: int
    ) -> None:
        self.planned = planned
        self.tokens = tokens
        self._all = len(layers)
        self._left = list(layers)

    def __bool__(self) -> bool:
        return bool(self._left)

    @property
    def in_vain(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(group.is_gone for group, _ in self.planned)

    def take(self, share: float) -> tuple[list[Sequence[mx.array]], float]:
        """What to compute next: about that share of all, at least a layer; and which share it really is."""
        count = max(1, math.ceil(share * self._all))  # rounded down, a few would be left for one more step
        taken, self._left = self._left[:count], self._left[count:]
        return taken, len(taken) / self._all


class SlicedPace(Pace):
    """Sizes the parts of chunks, which are always as long as may be."""

    def __init__(self, chunk: int, idle_chunk: int, smallest: int = SMALLEST) -> None:
        super().__init__(chunk, idle_chunk, smallest)
        self._whole: dict[
            int, float
        ] = {}  # by the binary logarithm of the tokens, what all parts together add to steps

    def budget(self, rows: int, waiting: int = 1) -> int:
        """See `Pace.budget`."""
        known = rows and self.trying is None and self._bound(rows, waiting) is not None
        return self._chunk if known else super().budget(rows, waiting)

    def share(self, rows: int, waiting: int, tokens: int) -> float:
        """The part of the pass for a chunk of so many tokens that goes along with a step."""
        bound = self._bound(rows, waiting) if rows and self.trying is None else None
        whole = self._whole.get(tokens.bit_length())
        if bound is None or whole is None or whole <= bound:
            return 1.0
        return max(LEAST, bound / whole)

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
