"""Noticing that a file has changed, by looking at it now and then.

Looking costs five microseconds a file, and sees what notifications do not: a link that points elsewhere, a change behind
a link, a folder that is not there yet, a volume that sends none. A change counts once the file stands still, so that
half of a file that an editor is writing is not read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = structlog.get_logger()

LOOK = 0.5
"""Seconds between looks."""

State = tuple[tuple["Path", tuple[int, int, int, int] | None], ...]


class FileWatch:
    """Calls `on_change`, on a thread of its own, after one of `files()` has changed.

    Args:
        files: asked before each look.
        on_change: whatever it raises is logged, and the watch goes on.
    """

    def __init__(self, files: Callable[[], Iterable[Path]], on_change: Callable[[], object]) -> None:
        self._files = files
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._known = self._look()
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        before = self._known
        while not self._stop.wait(LOOK):
            now = self._look()
            if now != self._known and now == before:
                self._known = now
                self._tell()
            before = now

    def _tell(self) -> None:
        try:
            self._on_change()
        except Exception:
            log.exception("watch.failed")

    def _look(self) -> State:
        return tuple((path, _state(path)) for path in self._files())


def _state(path: Path) -> tuple[int, int, int, int] | None:
    """What differs after any change of content, mode or identity; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
