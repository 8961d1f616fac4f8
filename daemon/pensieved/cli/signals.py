"""SIGTERM, SIGINT and SIGHUP as something the main thread waits for.

A handler may interrupt the main thread while it holds the lock of any threading primitive, so it only writes
a byte to a pipe; waiting is reading that pipe.
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

_END, _RELOAD = b"!", b"r"
_BYTES = {signal.SIGTERM: _END, signal.SIGINT: _END, signal.SIGHUP: _RELOAD}


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
        self._old = {number: signal.signal(number, self._on_signal) for number in _BYTES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
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
            if os.read(self._read, 1) == _END:
                return True
            self._on_reload()

    def raise_end(self) -> None:
        """Behave as if the end had been asked for; from any thread."""
        os.write(self._write, _END)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        os.write(self._write, _BYTES[signal.Signals(number)])
