"""What the host of a virtual machine takes from it.

A guest's processor that the host gives to others stands still, and with it whoever waits for it: MLX's threads on a CPU wait for
each other in every product, so a second that one of them loses is lost to all. Linux counts such seconds; where
nothing does, there are none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

MOST = 0.5
"""Share of a time: where the host took more, what is left says nothing."""
CALM = 0.05
"""Share of the time of all processors: where the host took no more, what was measured is the machine's own."""


@dataclass(frozen=True)
class Span:
    """A time in seconds, and for how many of them a processor had been taken away, all processors together."""

    seconds: float
    stolen: float

    @property
    def share(self) -> float:
        """Of the time; with several processors it may be more than 1."""
        return self.stolen / self.seconds if self.seconds else 0.0

    @property
    def is_calm(self) -> bool:
        """Whether that was little."""
        return self.share <= CALM * (psutil.cpu_count() or 1)


class Watch:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._begun, self._stolen = time.perf_counter(), _stolen()

    def span(self) -> Span:
        """Up to now."""
        return Span(time.perf_counter() - self._begun, _stolen() - self._stolen)


def _stolen() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))
