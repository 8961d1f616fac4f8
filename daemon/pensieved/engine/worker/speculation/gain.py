"""How many tokens to draft for whom, so that everybody's tokens come sooner on the whole.

What a pass takes is measured, for each number of rows in it. A number that was not met for a while is hoped to be little
dearer than the next smaller one: so each is tried where it promises most, and judged by its own time from then on. What is
weighed is the mean of the logarithms of the streams' speeds: one stream must not be made faster by making several others
slower.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTHS = (1, 3, 7, 15)
"""Tokens of a draft: with the row's own token they fill up the blocks in which matrices are multiplied."""
MOST_ROWS = 8
"""Requests that decode together, beyond which drafts are not looked at: a pass is full without them."""
WORTH = 1.1
"""By what factor a pass with drafts must be better."""
SLOWEST = 2.5
"""How much longer than a plain one it may take where somebody has no draft."""
HOPE = 0.04
"""What a further row is taken to add to a pass, in plain ones, until it is measured."""
SHORTEST_LIFE, LONGEST_LIFE = 16, 256
"""Passes after which a time measured is doubted, and measured again if that promises to pay: other load may have slowed
that one pass, contexts grow and shrink. Each doubt doubles the time to the next.
"""
DOWN, UP = 0.5, 0.2
"""Weights of a measurement below and above what was known: a slow pass may have had other reasons."""


class Gain:
    """Knows what passes take, and judges by that."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}  # rows → seconds
        self._drafting: dict[int, tuple[float, int]] = {}  # all rows → seconds, and until when to believe it
        self._lives: dict[int, int] = {}  # all rows → passes for which to believe it
        self._tried: set[int] = set()
        self._passes = 0

    def took(self, seconds: float, rows: int, drafted: int = 0, *, met: bool = True) -> None:
        """Learn from a pass of `rows` decoding rows and `drafted` tokens besides; `met`: one like it ran before.

        What was compiled for a pass counts, since it comes again as contexts grow, but not as the first that is known.
        """
        self._passes += 1
        total = rows + drafted
        if not drafted:
            self._plain[rows] = _mixed(self._plain.get(rows), seconds)
        elif met or total in self._tried:
            known = self._measured(total)
            if known is None:
                self._lives[total] = min(2 * self._lives.get(total, SHORTEST_LIFE // 2), LONGEST_LIFE)
            self._drafting[total] = (_mixed(known, seconds), self._passes + self._lives[total])
        else:
            self._tried.add(total)

    def lengths(self, chances: Sequence[float]) -> list[int]:
        """How many tokens to draft for each row, by how probable each is to be right (`History.chance`)."""
        rows = len(chances)
        none = [0] * rows
        plain = self._plain.get(rows)
        if plain is None or rows > MOST_ROWS:
            return none
        order = sorted((row for row in range(rows) if chances[row]), key=lambda row: -chances[row])
        best, found = math.log(WORTH), none
        for count in range(1, len(order) + 1):
            for length in LENGTHS:
                slower = self._seconds(rows, length * count, plain) / plain
                if slower > SLOWEST and count < rows:
                    break
                sooner = sum(math.log(expected(chances[row], length)) for row in order[:count])
                if sooner / rows - math.log(slower) > best:
                    best = sooner / rows - math.log(slower)
                    found = [length if row in order[:count] else 0 for row in range(rows)]
        return found

    def _seconds(self, rows: int, drafted: int, plain: float) -> float:
        """What a pass is going to take: as measured, or what is hoped of it."""
        total = rows + drafted
        met = {known: self._measured(known) for known in self._drafting if rows < known <= total}
        below = max((known for known, seconds in met.items() if seconds is not None), default=rows)
        return (met.get(below) or plain) + HOPE * plain * (total - below)

    def _measured(self, total: int) -> float | None:
        seconds, until = self._drafting.get(total, (0.0, 0))
        return seconds if self._passes < until else None


def expected(chance: float, drafted: int) -> float:
    """Tokens that a row gets out of a pass on average."""
    return (1 - chance ** (drafted + 1)) / (1 - chance)


def _mixed(known: float | None, seen: float) -> float:
    if known is None:
        return seen
    return known + (seen - known) * (DOWN if seen < known else UP)
