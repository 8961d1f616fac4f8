"""What a request will probably say next, going by what it has read and said before.

The end of the text so far is looked for in the text before it; what followed there is the draft. A place once found is
followed as long as it agrees, whether its tokens were drafted or not. So how far such drafts can be trusted is known
without a pass being spent on it: each token that was chosen anyway says whether the place foretold it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORTEST, LONGEST = 2, 16
"""Tokens in which the end and the place must agree, and beyond which agreement is not looked for."""
BORDERS = (3, 4, 6, 9, 16)
"""How often a place is right depends on how long it has agreed: between these lengths it counts as the same."""
PRIOR = (0.2, 0.4, 0.5, 0.6, 0.75, 0.9)
"""How often that is assumed to be, for each span of lengths, before anything is known of a request."""
TRUST = 4
"""Tokens that the assumption weighs as much as."""
MEMORY = 0.9
"""What each token seen leaves of the weight of those before."""
CERTAIN = 0.98
"""More is never believed."""


class History:
    """The tokens of one request, and the place in them that is being followed.

    Args:
        prompt: its ids.
    """

    def __init__(self, prompt: np.ndarray) -> None:
        self._ids = np.concatenate([prompt, np.zeros(max(64, len(prompt) // 2), np.uint32)])
        self._length = len(prompt)
        self._answered = 0
        self._place: int | None = None  # whose token is expected next
        self._agreed = 0
        self._right = [TRUST * chance for chance in PRIOR]
        self._seen = [float(TRUST)] * len(PRIOR)
        self._search()

    def follow(self, answer: Sequence[int]) -> None:
        """Take in what `answer` has beyond what is known of it."""
        for token in answer[self._answered :]:
            self._take(token)
        self._answered = len(answer)
        if self._place is None:
            self._search()

    @property
    def chance(self) -> float:
        """How probable it is that the next token is the one foretold, and the one after that if it was, and so on."""
        if self._place is None:
            return 0.0
        span = bisect_right(BORDERS, self._agreed)
        return min(CERTAIN, self._right[span] / self._seen[span])

    def draft(self, length: int) -> list[int]:
        """The next tokens. Where the place comes up to the end of the text, the draft goes on with itself."""
        if self._place is None:
            return []
        period = self._length - self._place
        return [int(self._ids[self._place + number % period]) for number in range(length)]

    def _take(self, token: int) -> None:
        if self._place is not None:
            span = bisect_right(BORDERS, self._agreed)
            agrees = bool(self._ids[self._place] == token)
            self._right[span] = MEMORY * self._right[span] + agrees
            self._seen[span] = MEMORY * self._seen[span] + 1
            self._place = self._place + 1 if agrees else None
            self._agreed += 1
        if self._length == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
        self._ids[self._length] = token
        self._length += 1

    def _search(self) -> None:
        """Find the latest of the places that agree longest with the end."""
        known, last = self._ids, self._length - 1
        ends = np.flatnonzero(known[:last] == known[last])
        self._agreed = 0
        for agreed in range(1, LONGEST + 1):
            if not len(ends):
                break
            if agreed >= SHORTEST:
                self._place, self._agreed = int(ends[-1]) + 1, agreed
            ends = ends[ends >= agreed]
            ends = ends[known[ends - agreed] == known[last - agreed]]
