"""A pass that pauses while it is being made, so that others have their turn in between.

What is computed while a pass is made (see `cpu/attention`) would keep everybody waiting until all of its layers are. A model's code
is one call, though, which cannot be left and entered again as a generator can. A greenlet has a call stack of its own in the same
thread, and that the thread is the same matters: MLX's streams belong to threads.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

    Clock = Callable[[], float]


class Paused(greenlet):
    """A pass under way, at the place where it last paused.

    Args:
        make: makes all of it. It may call `pause`, and whoever goes on with it in between must leave alone what it uses.
        clock: seconds.

    Attributes:
        result: what `make` returned, once it has.
    """

    def __init__(self, make: Callable[[], Any], clock: Clock = time.perf_counter) -> None:
        super().__init__()
        self.result: Any = None
        self._make = make
        self._clock = clock
        self._until = self._last = 0.0

    def go_on(self, seconds: float) -> bool:
        """Make more of it, one piece at least, for about so long; whether it is made.

        Raises:
            Exception: whatever `make` does.
        """
        self._last = self._clock()
        self._until = self._last + seconds
        self.parent = getcurrent()
        self.switch()
        return bool(self.dead)

    def give_up(self) -> None:
        """It is not wanted any more: what its frames hold is let go of."""
        self.throw(GreenletExit)

    def run(self) -> None:
        """All of it, on a stack of its own; for `greenlet`."""
        self.result = self._make()

    def rest(self) -> None:
        """Stop here if another piece like the last one would end later than it may, by more than half of it."""
        now = self._clock()
        late = now + (now - self._last) / 2 >= self._until
        self._last = now
        if late and self.parent is not None:
            self.parent.switch()


def pause() -> None:
    """A place where the pass that is being made here may pause, if it is one that can."""
    current = getcurrent()
    if isinstance(current, Paused):
        current.rest()
