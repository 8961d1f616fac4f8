"""Which request killed the engine: strikes, suspects and their trial.

A dead engine leaves a question: was it one of its requests? Those that had just produced tokens are innocent;
those that were waiting for their first are suspects. Resubmitting all suspects together would let one bad request
pull the others down with it at every death, so suspects go on trial one at a time, and nobody joins while one is
being tried. The second proven death is the request's own, and it alone fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

OWN_DOING = 1.0
"""Weight of a death that the engine brought about itself: a fault, a crash signal, a hang, all memory used up."""
FROM_OUTSIDE = 1 / 16
"""Weight of a death by somebody else's signal. It says next to nothing about a request, and whoever kills engines
again and again often finds the same long prompt in prefill; only a long row of such deaths tells something."""
SUSPECT = 1.0
"""Strikes from which a request runs only on trial."""
GUILTY = 2.0
"""Strikes at which a request fails."""


@dataclass
class Record:
    """What the engine's deaths say about one request."""

    strikes: float = 0.0
    lives: int = 0  # engines it has been submitted to
    in_flight: bool = False  # submitted to the engine that lives now
    taken: bool = False  # which has said that it read it
    progressed: bool = False  # and has produced a token there

    @property
    def suspect(self) -> bool:
        """Whether it must be tried alone."""
        return self.strikes >= SUSPECT

    @property
    def guilty(self) -> bool:
        """Whether it has cost enough engines."""
        return self.strikes >= GUILTY

    @property
    def pending(self) -> bool:
        """Whether the living engine still owes its first token."""
        return self.in_flight and not self.progressed

    def submitted(self) -> None:
        """Handed to the living engine."""
        self.in_flight, self.taken, self.progressed = True, False, False
        self.lives += 1

    def progress(self) -> None:
        """It produced a token, and the engine survived that."""
        self.progressed = True
        self.strikes = 0.0

    def bereaved(self, weight: float) -> None:
        """The engine died; `weight` is what this death counts against a request that it had begun with.

        One that it had not even read cannot have killed it: that counts as little as a death from outside.
        """
        if self.pending:
            self.strikes += weight if self.taken else min(weight, FROM_OUTSIDE)
        self.in_flight = False


class Accused(Protocol):
    """Anything with a record."""

    @property
    def record(self) -> Record:
        """Its record."""
        ...


T = TypeVar("T", bound=Accused)


def admissible(live: Iterable[T]) -> list[T]:
    """Those of the `live` requests, oldest first, that may be handed to the engine now."""
    live = list(live)
    waiting = [each for each in live if not each.record.in_flight]
    suspects = [each for each in waiting if each.record.suspect]
    if any(each.record.suspect and each.record.pending for each in live):
        return []
    if not suspects:
        return waiting
    innocent = [each for each in waiting if each.record.lives and not each.record.suspect]
    if innocent or any(each.record.pending for each in live):
        return innocent
    return suspects[:1]
