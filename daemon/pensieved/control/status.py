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

    IDLE = (
        "idle"  # no engine: not started yet, or left memory because nobody asked; the next request wakes it
    )
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


class Upcoming(msgspec.Struct, frozen=True, kw_only=True):
    """A model on its way in while another one serves: how far it is."""

    model: str
    phase: Phase
    since: float
    detail: str = ""
    progress: Progress | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of the daemon. Times in seconds since the epoch."""

    phase: Phase
    since: float
    detail: str = ""
    progress: Progress | None = None
    error: str | None = None
    hint: str | None = None
    retry_at: float | None = None
    upcoming: Upcoming | None = None


class StatusBoard:
    """The current `Status`, safe to read from any thread; writers wake waiters and listeners."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # reentrant: a listener may look
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
            since = self._status.since if phase is self._status.phase else time.time()
            self._write(
                Status(
                    phase=phase,
                    since=since,
                    detail=detail,
                    progress=progress,
                    error=error,
                    hint=hint,
                    retry_at=retry_at,
                    upcoming=self._status.upcoming,
                )
            )

    def announce(
        self, model: str, phase: Phase, *, detail: str = "", progress: Progress | None = None
    ) -> None:
        """Say how far the next model is, while the phase stays that of the one that serves."""
        with self._changed:
            now = self._status.upcoming
            since = now.since if now and (now.model, now.phase) == (model, phase) else time.time()
            upcoming = Upcoming(model=model, phase=phase, since=since, detail=detail, progress=progress)
            self._write(msgspec.structs.replace(self._status, upcoming=upcoming))

    def withdraw(self) -> None:
        """No model is on its way any more."""
        with self._changed:
            if self._status.upcoming is not None:
                self._write(msgspec.structs.replace(self._status, upcoming=None))

    def wait(self, until: Callable[[Status], bool], timeout: float) -> Status:
        """Block until `until(status)` holds or `timeout` seconds passed; returns the latest status."""
        with self._changed:
            self._changed.wait_for(lambda: until(self._status), timeout)
            return self._status

    def _write(self, status: Status) -> None:
        """The lock is held, also while listeners hear of it: they hear everything, in order."""
        if self._status.phase is Phase.DRAINING:
            return
        self._status = status
        self._changed.notify_all()
        for listener in self._listeners:
            listener(status)
