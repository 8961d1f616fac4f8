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

PATIENCE = 2.5
"""Bound on a step with prompt tokens, in steps without, where hardly anybody waits. Eight readers of streams are promised no
more than three for a ninth's prompt; see `Pace.budget`."""
MAJORITY = 2.0
"""Prompts that wait for each who reads, beyond which more of them change nothing."""
SMALLEST = 16
"""Tokens that always go along, unless fewer than some more make no difference."""
DOWN, UP = 0.5, 0.15
"""Weights of a measurement below and above what was known: a slow step may have had other reasons."""
HICCUP = 2.0
"""Factor beyond which a measurement counts no more: one step that took a second says nothing of the next."""
STRIDE = 2
"""Factor by which a chunk may be longer than any that was measured."""
UNNOTICED = 0.05
"""Seconds that a chunk may add where even the least one adds more than that bound: nobody reads 20 tokens a second, and larger
chunks hold readers up for less time altogether."""
HARDLY = 1.25
"""One that costs this much more than the least one is no worse to them in any case."""
OPTIMISM = 0.998
"""What the costs of longer chunks than the one at hand fall to at each step, so that they are tried again one day."""


@dataclass
class _Cost:
    """What chunks of about `tokens` tokens add to a step, in seconds."""

    tokens: float
    seconds: float


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
        self._last: tuple[int, int] | None = None  # rows and prompt tokens of the previous step

    def budget(self, rows: int, waiting: int = 1) -> int:
        """Prompt tokens for a step in which `rows` requests decode and `waiting` prompts are not computed yet."""
        if not rows:
            return self._idle_chunk
        plain = self._plain_of(rows)
        patience = (PATIENCE - 1) * (1 + min(MAJORITY, waiting / rows))
        bearable = self._smallest if plain is None else self._most(patience * plain)
        return self.trying or int(max(self._smallest, min(bearable, self._chunk)))

    def took(self, seconds: float, rows: int, tokens: int) -> None:
        """Learn from a step of `rows` decoding rows and `tokens` of prompts."""
        last, self._last = self._last, (rows, tokens)
        if last is None or not rows or last[0] != rows:
            return
        if not tokens and not last[1]:
            self._plain[rows] = _mixed(self._plain.get(rows), seconds)
        elif tokens and last[1]:
            self._learn(seconds, rows, (tokens + last[1]) / 2)

    def rest(self) -> None:
        """Nothing ran for a while: the next step has no previous one."""
        self._last = None

    def _learn(self, seconds: float, rows: int, tokens: float) -> None:
        plain = self._plain_of(rows)
        if plain is None:
            return
        more, size = max(0.0, seconds - plain), int(tokens).bit_length()
        if tokens <= self._smallest:
            self._least = _mixed(self._least, more)
        known = self._costs.setdefault(size, _Cost(tokens, more))
        before = known.seconds * tokens / known.tokens
        known.tokens, known.seconds = tokens, _mixed(before, more)
        dearer = known.seconds / before if before else 1.0
        for other, cost in self._costs.items():
            if other > size:  # a context that made this chunk dearer makes longer ones dearer, too
                cost.seconds *= dearer * OPTIMISM

    def _most(self, bound: float) -> float:
        """Tokens of a chunk that adds `bound` seconds, or as many as are no worse to readers."""
        if self._least is not None:
            bound = max(bound, HARDLY * self._least, UNNOTICED if self._least > bound else 0.0)
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


def _mixed(known: float | None, seen: float) -> float:
    if known is None:
        return seen
    seen = min(seen, HICCUP * known) if known else seen
    return known + (seen - known) * (DOWN if seen < known else UP)
