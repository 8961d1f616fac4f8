"""Waitress' threads, started when they are needed.

Each request that runs or waits holds a thread, so that there may be many: a hundred, of which most daemons never need a tenth.
Waitress starts all of them before it listens.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from waitress.task import ThreadedTaskDispatcher

if TYPE_CHECKING:
    from waitress.channel import HTTPChannel


class Threads(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress is not typed
    """Runs tasks, `most` of them at the same time. A thread that was started stays."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._changing = threading.Lock()  # or two tasks that come at once would get one thread

    def set_thread_count(self, count: int) -> None:
        """Allow so many from now on; those that are too many end after their task."""
        with self._changing:
            self._most = count
            super().set_thread_count(min(count, self._running + len(self.queue)))

    def add_task(self, task: HTTPChannel) -> None:
        """Have `task` run as soon as a thread is free, and see to it that one is."""
        with self._changing:
            # One that was started, or woken for a task that is still in the queue, is spoken for.
            idle = self._running - self.active_count
            if len(self.queue) >= idle and self._running < self._most:
                super().set_thread_count(self._running + 1)
            super().add_task(task)

    @property
    def _running(self) -> int:
        return len(self.threads) - int(self.stop_count)
