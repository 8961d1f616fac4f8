"""SIGTERM and SIGINT as something the main thread waits for.

A handler may interrupt the main thread while it holds the lock of any threading primitive, so it only writes
a byte to a pipe; waiting is reading that pipe.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_ENDING = (signal.SIGTERM, signal.SIGINT)


class EndSignals:
    """Context manager: inside it the signals are counted, after it their old handlers are back."""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._old = {number: signal.signal(number, self._on_signal) for number in _ENDING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether a signal came within `timeout` seconds; each is told once."""
        readable, _, _ = select.select([self._read], [], [], timeout)
        return bool(readable) and bool(os.read(self._read, 1))

    def raise_end(self) -> None:
        """Behave as if a signal had come; from any thread."""
        os.write(self._write, b"!")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.raise_end()
