"""SIGTERM, SIGINT and SIGHUP as something the main thread waits for.

A handler may interrupt the main thread while it holds the lock of any threading primitive, so nothing happens in one: the
interpreter writes the signal's number to a pipe, and waiting is reading that pipe. It does so when the signal arrives. A
handler in Python runs when the main thread gets to it, and that may be asleep by then: a signal that came between its last
instruction and the system call would be lost until the next one.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EndSignals:
    """Context manager: inside it the signals are counted, after it their old handlers are back.

    Args:
        on_reload: called where one waits for the end, when SIGHUP asks for the configuration to be read again.
    """

    def __init__(self, on_reload: Callable[[], object] = lambda: None) -> None:
        self._on_reload = on_reload

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _ignore) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the end was asked for within `timeout` seconds; each asking is told once."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._read], [], [], left)
            if not readable:
                return False
            match os.read(self._read, 1)[0]:
                case signal.SIGTERM | signal.SIGINT:
                    return True
                case signal.SIGHUP:
                    self._on_reload()

    def raise_end(self) -> None:
        """Behave as if the end had been asked for; from any thread."""
        os.write(self._write, bytes([signal.SIGTERM]))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The signal is in the pipe; without a handler of Python's it would not get there."""
