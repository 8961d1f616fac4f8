"""How many prompt tokens go along with a decode step, so that those who stream hardly notice.

A step may take `PATIENCE` times what it takes without prompts. What one costs is measured, not assumed: it depends on
the device, the model, how many stream and how long their contexts are. Both costs are running averages over steps of
one kind in a row, since a step is only seen to end while the next one runs.
"""

from __future__ import annotations

PATIENCE = 2.5
"""Bound on a step with prompt tokens, in steps without; three is what a reader of a stream is promised."""
SMALLEST = 16
"""Tokens that always go along."""
DOWN, UP = 0.5, 0.15
"""Weights of a measurement below and above what was known: a slow step may have had other reasons."""
STRIDE = 2
"""Factor by which a chunk may grow from one step to the next."""


class Pace:
    """Sizes chunks of prefill.

    Args:
        chunk: most prompt tokens of a step while somebody decodes.
        idle_chunk: the same while nobody does.
    """

    def __init__(self, chunk: int, idle_chunk: int) -> None:
        self._chunk = chunk
        self._idle_chunk = idle_chunk
        self._plain: dict[int, float] = {}  # rows that decode → seconds of a step
        self._each: float | None = None  # seconds that a prompt token adds
        self._next = SMALLEST
        self._last: tuple[int, int] | None = None  # rows and prompt tokens of the previous step

    def budget(self, rows: int) -> int:
        """Prompt tokens for a step in which `rows` requests decode."""
        return self._next if rows else self._idle_chunk

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
        self._each = _mixed(self._each, max(0.0, seconds - plain) / tokens)
        fair = (PATIENCE - 1) * plain / self._each if self._each else float(self._chunk)
        self._next = int(max(SMALLEST, min(fair, STRIDE * self._next, self._chunk)))

    def _plain_of(self, rows: int) -> float | None:
        """What a step of about as many rows takes."""
        if not self._plain:
            return None
        return self._plain[min(self._plain, key=lambda known: abs(known - rows))]


def _mixed(known: float | None, seen: float) -> float:
    if known is None:
        return seen
    return known + (seen - known) * (DOWN if seen < known else UP)
