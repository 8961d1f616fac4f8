"""How far the chain is, told to the parent at most about four times a second."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from pensieved.models.progress import PrepareStage, Progress
from pensieved.models.wire import Moved, Note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pensieved.models.wire import Event

_INTERVAL = 0.25
_SMOOTHING_SECONDS = 5.0  # how long the rate remembers
_POLL_SECONDS = 0.25


class Reporter:
    """Progress of one stage at a time. Safe to use from several threads."""

    def __init__(self, send: Callable[[Event], object]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._stage = PrepareStage.RESOLVING
        self._detail = ""
        self._done = 0
        self._total: int | None = None
        self._sent_at = 0.0
        self._rate = _Rate()

    def note(self, text: str) -> None:
        """Say something worth a line in the log."""
        with self._lock:
            self._send(Note(text))

    def begin(self, stage: PrepareStage, detail: str = "", total: int | None = None, done: int = 0) -> None:
        """Enter a stage; `done` bytes of `total` are there already and do not count into the rate."""
        with self._lock:
            self._stage, self._detail, self._total, self._done = stage, detail, total, done
            self._rate = _Rate()
            self._emit()

    def advance(self, more: int) -> None:
        """`more` bytes are done; negative when some must be done again."""
        with self._lock:
            self._done += more
            self._rate.add(more)
            if time.monotonic() - self._sent_at >= _INTERVAL:
                self._emit()

    @contextlib.contextmanager
    def polling(self, measure: Callable[[], int]) -> Iterator[None]:
        """Advance to what `measure` returns, for as long as the context lasts."""
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(_POLL_SECONDS):
                self.advance(measure() - self._done)

        thread = threading.Thread(target=poll, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _emit(self) -> None:
        self._sent_at = time.monotonic()
        rate = self._rate.value
        remaining = None if self._total is None else max(0, self._total - self._done)
        progress = Progress(
            stage=self._stage,
            detail=self._detail,
            done=self._done,
            total=self._total,
            rate=rate,
            eta=remaining / rate if remaining is not None and rate else None,
        )
        self._send(Moved(progress))


class _Rate:
    """Bytes per second, the last seconds counting most."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._pending = 0
        self._value: float | None = None

    def add(self, more: int) -> None:
        self._pending += more

    @property
    def value(self) -> float | None:
        now = time.monotonic()
        elapsed = now - self._last
        if elapsed < _INTERVAL / 2:
            return self._value
        fresh = max(0.0, self._pending / elapsed)
        weight = 1.0 if self._value is None else min(1.0, elapsed / _SMOOTHING_SECONDS)
        self._value = fresh * weight + (self._value or 0.0) * (1 - weight)
        self._last, self._pending = now, 0
        return self._value
