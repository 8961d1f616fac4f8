"""How many prompt tokens go along with a decode step, so that those who stream hardly notice.

A step may take `PATIENCE` times what it takes without prompts, and longer the more prompts wait for each who streams: where
one reads and seven wait, making the seven wait longer is no kindness. What a step costs is measured, not assumed: it depends on
the device, the model, how many stream and how long their contexts are. It is not proportional to the tokens either: on a
large GPU any chunk at all costs a pass of its own, and a long one hardly more than a short one. So what chunks add to a
step is kept for several sizes, and read between them.

All costs are running averages over steps of one kind in a row, since a step is only seen to end while the next one runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from pensieved.engine.worker.passes.shapes import Shapes

PATIENCE = 2.5
"""Bound on a step with prompt tokens, in steps without, where hardly anybody waits. Eight readers of streams are promised no
more than three for a ninth's prompt; see `Pace.budget`."""
MAJORITY = 2.0
"""Prompts that wait for each who reads, beyond which more of them change nothing."""
SMALLEST = Shapes.least
"""Tokens that always go along, unless fewer than some more make no difference."""
DOWN, UP = 0.5, 0.15
"""Weights of a measurement below and above what was known: a slow step may have had other reasons."""
HICCUP = 2.0
"""Factor beyond which a measurement counts no more: one step that took a second says nothing of the next."""
STRIDE = 2
"""Factor by which a chunk may be longer than any that was measured."""
HARDLY = 1.25
"""Where the least chunk costs more than readers bear, one that costs this much more than it is no worse to them."""
OPTIMISM = 0.998
"""What the costs of longer chunks than the one at hand fall to at each step, so that they are tried again one day."""


@dataclass
class _Cost:
    """What chunks of about `tokens` tokens add to a step, in seconds."""

    tokens: float
    seconds: float


@dataclass(frozen=True)
class Step:
    """What was seen of one; see `Pace.took`."""

    seconds: float
    rows: int
    tokens: int
    share: float


class Pace:
    """Sizes chunks of prefill.

    Args:
        chunk: most prompt tokens of a step while somebody decodes.
        idle_chunk: the same while nobody does.
        smallest: tokens that always go along.

    Attributes:
        trying: tokens that go along instead of as many as readers bear: to find out what they cost.
    """

    def __init__(self, chunk: int, idle_chunk: int, smallest: int = SMALLEST) -> None:
        self.trying: int | None = None
        self._smallest = smallest
        self._chunk = chunk
        self._idle_chunk = idle_chunk
        self._plain: dict[int, float] = {}  # rows that decode → seconds of a step
        self._costs: dict[int, _Cost] = {}  # by the binary logarithm of the tokens
        self._least: float | None = None  # what the smallest chunk adds
        self._last: Step | None = None

    def budget(self, rows: int, waiting: int = 1) -> int:
        """Prompt tokens for a step in which `rows` requests decode and `waiting` prompts are not computed yet."""
        if not rows:
            return self._idle_chunk
        bound = self.bound(rows, waiting)
        bearable = self._most(bound) if bound else self._smallest
        return self.trying or int(max(self._smallest, min(bearable, self._chunk)))

    def bound(self, rows: int, waiting: int) -> float:
        """Seconds that prompts may add to a step in which `rows` decode and `waiting` prompts are not computed yet; 0 if unknown."""
        return (self._plain_of(rows) or 0.0) * (PATIENCE - 1) * (1 + min(MAJORITY, waiting / rows))

    def parts(self, rows: int, waiting: int, tokens: int) -> int:  # noqa: ARG002  # others have reason to ask
        """In how many parts, a step each, the pass for a chunk of so many tokens is computed: in one."""
        return 1

    def took(self, seconds: float, rows: int, tokens: int, share: float = 1.0) -> None:
        """Learn from a step of `rows` decoding rows and that share of a chunk of `tokens` of prompts."""
        last, self._last = self._last, Step(seconds, rows, tokens, share)
        if last is None or not rows or last.rows != rows:
            return
        if not tokens and not last.tokens:
            self._plain[rows] = mixed(self._plain.get(rows), seconds)
        elif tokens and last.tokens and (plain := self._plain_of(rows)) is not None:
            self._learn(last, self._last, plain)

    def rest(self) -> None:
        """Nothing ran for a while: the next step has no previous one."""
        self._last = None

    def _learn(self, last: Step, step: Step, plain: float) -> None:
        """Learn from two steps in a row that brought prompt tokens, where one that brings none takes `plain` seconds."""
        more = max(0.0, step.seconds - plain)
        tokens = (last.tokens + step.tokens) / 2
        size = int(tokens).bit_length()
        if tokens <= self._smallest:
            self._least = mixed(self._least, more)
        known = self._costs.setdefault(size, _Cost(tokens, more))
        before = known.seconds * tokens / known.tokens
        known.tokens, known.seconds = tokens, mixed(before, more)
        dearer = known.seconds / before if before else 1.0
        for other, cost in self._costs.items():
            if other > size:  # a context that made this chunk dearer makes longer ones dearer, too
                cost.seconds *= dearer * OPTIMISM

    def _most(self, bound: float) -> float:
        """Tokens of a chunk that adds `bound` seconds, or hardly more than the least one does."""
        bound = max(bound, HARDLY * (self._least or 0.0))
        tokens = seconds = 0.0
        for _, cost in sorted(self._costs.items()):
            if cost.seconds > bound:
                return tokens + (bound - seconds) / (cost.seconds - seconds) * (cost.tokens - tokens)
            tokens, seconds = cost.tokens, max(seconds, cost.seconds)
        if not tokens:
            return self._smallest
        return tokens * min(STRIDE, bound / seconds if seconds else STRIDE)

    def _plain_of(self, rows: int) -> float | None:
        """What a step of about as many rows takes."""
        if not self._plain:
            return None
        return self._plain[min(self._plain, key=lambda known: abs(known - rows))]


def mixed(known: float | None, seen: float) -> float:
    """A running average that falls sooner than it rises."""
    if known is None:
        return seen
    seen = min(seen, HICCUP * known) if known else seen
    return known + (seen - known) * (DOWN if seen < known else UP)
