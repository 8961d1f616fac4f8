"""When to stop restarting: lives in a row that produced nothing, and the pause before the next.

Restarting is right while it helps. A crash loop does not, and it hurts: each one leaks GPU memory on macOS until
reboot, and the log fills. A life that produced a token was worth it and clears the count; one that somebody else ended
counts little, since the next may well go better.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from pensieved.engine.blame import OWN_DOING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 8.0


class Brake:
    """Counts unproductive lives, each by what its death weighs (see `blame`).

    Args:
        limit: so much within `window` seconds, and it is over.
        window: seconds within which such deaths count as in a row.
        clock: monotonic seconds.
    """

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._deaths: deque[tuple[float, float]] = deque()  # when, and its weight

    def adjust(self, limit: int, window: float) -> None:
        """Other limits; what has been counted stays."""
        self._limit, self._window = limit, window

    def release(self) -> None:
        """Start over: a life was productive, or someone decided to try again."""
        self._deaths.clear()

    def died(self, *, productive: bool, weight: float = OWN_DOING) -> float | None:
        """Seconds to pause before the next life, or None to give up."""
        if productive:
            self.release()
            return 0.0
        now = self._clock()
        self._deaths.append((now, weight))
        while now - self._deaths[0][0] > self._window:
            self._deaths.popleft()
        count = sum(weight for _, weight in self._deaths)
        if count >= self._limit:
            return None
        return 0.0 if count <= OWN_DOING else min(FIRST_PAUSE * 2 ** (count - 2), LONGEST_PAUSE)
