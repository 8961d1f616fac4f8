"""The phase the daemon is in, for status, health, log and whoever waits for it."""

from __future__ import annotations

import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from pensieved.models.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable


class Phase(StrEnum):
    """Where the reconcile loop stands."""

    IDLE = "idle"  # not started yet
    RESOLVING = "resolving"  # pinning the model's commit
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    CONVERTING = "converting"
    LOADING = "loading"  # weights into memory
    WARMING = "warming"  # compiling shapes
    READY = "ready"
    DEGRADED = "degraded"  # serving, but not what the settings ask for
    FAILED = "failed"  # not serving; says why and whether it is retried
    DRAINING = "draining"  # shutting down: running requests finish, new ones are refused


SOON_READY = frozenset({Phase.IDLE, Phase.LOADING, Phase.WARMING})
"""Phases short enough for a request to wait through."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of the daemon. Times in seconds since the epoch."""

    phase: Phase
    since: float
    detail: str = ""
    progress: Progress | None = None
    error: str | None = None
    hint: str | None = None
    retry_at: float | None = None


class StatusBoard:
    """The current `Status`, safe to read from any thread; writers wake waiters and listeners."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status = Status(phase=Phase.IDLE, since=time.time())
        self._listeners: list[Callable[[Status], None]] = []

    @property
    def current(self) -> Status:
        """The latest status."""
        return self._status

    def subscribe(self, listener: Callable[[Status], None]) -> None:
        """Call `listener` with each new status, on the writer's thread."""
        self._listeners.append(listener)

    def enter(
        self,
        phase: Phase,
        *,
        detail: str = "",
        progress: Progress | None = None,
        error: str | None = None,
        hint: str | None = None,
        retry_at: float | None = None,
    ) -> None:
        """Write a new status; `since` is kept while the phase stays the same. Nothing follows DRAINING."""
        with self._changed:
            if self._status.phase is Phase.DRAINING:
                return
            since = self._status.since if phase is self._status.phase else time.time()
            self._status = status = Status(
                phase=phase,
                since=since,
                detail=detail,
                progress=progress,
                error=error,
                hint=hint,
                retry_at=retry_at,
            )
            self._changed.notify_all()
        for listener in self._listeners:
            listener(status)

    def wait(self, until: Callable[[Status], bool], timeout: float) -> Status:
        """Block until `until(status)` holds or `timeout` seconds passed; returns the latest status."""
        with self._changed:
            self._changed.wait_for(lambda: until(self._status), timeout)
            return self._status
