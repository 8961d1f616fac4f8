"""What the engine process and its libraries print, as log entries of the daemon."""

from __future__ import annotations

from collections import deque

import structlog

log = structlog.get_logger(__name__)

_TAIL = 12
_LONGEST_LINE = 4096


class OutputLog:
    """Cuts a child's output into lines, logs each at debug level, and keeps the last ones for a death notice."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pending = b""
        self._tail: deque[str] = deque(maxlen=_TAIL)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._tail)

    def feed(self, data: bytes) -> None:
        """Add output; empty `data` is its end, which completes the last line."""
        *lines, self._pending = (self._pending + data).replace(b"\r", b"\n").split(b"\n")
        if not data or len(self._pending) > _LONGEST_LINE:
            lines, self._pending = [*lines, self._pending], b""
        for line in lines:
            if text := line[:_LONGEST_LINE].decode(errors="replace").strip():
                self._tail.append(text)
                log.debug("engine.output", pid=self._pid, line=text)
