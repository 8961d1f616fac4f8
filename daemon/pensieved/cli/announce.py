"""Phases as log lines: each change once, progress now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from pensieved.control.status import Phase, Status
from pensieved.settings.units import format_duration, format_size

if TYPE_CHECKING:
    from pensieved.control.status import StatusBoard
    from pensieved.models.progress import Progress

log = structlog.get_logger()

_EVERY = 3.0  # seconds between progress lines of one phase


class _Announcer:
    def __init__(self) -> None:
        self._last: tuple[Phase, str] | None = None
        self._next = 0.0

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        told = (status.phase, status.detail)
        if told == self._last and (status.progress is None or now < self._next):
            return
        self._last, self._next = told, now + _EVERY
        if status.phase is Phase.FAILED:
            return  # said once, with its reason, where it happened
        facts = describe(status.progress) if status.progress else {}
        log.info(status.phase.value, **({"detail": status.detail} if status.detail else {}), **facts)


def describe(progress: Progress) -> dict[str, str]:
    """Bytes, share, rate and time left, as people read them; what is unknown is left out."""
    facts: dict[str, str] = {}
    if progress.total:
        facts["done"] = f"{format_size(progress.done)} of {format_size(progress.total)}"
        facts["percent"] = f"{100 * progress.done / progress.total:.0f}"
    elif progress.done:
        facts["done"] = format_size(progress.done)
    if progress.rate:
        facts["rate"] = f"{format_size(progress.rate)}/s"
    if progress.eta is not None:
        facts["eta"] = format_duration(progress.eta)
    return facts


def announce_phases(board: StatusBoard) -> None:
    """Log every phase that `board` enters from now on."""
    board.subscribe(_Announcer())
