"""A log file that rotates itself, because under launchd nobody else does."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LARGEST_OUTPUT = 1024**2


@dataclass(frozen=True)
class LogFile:
    """Where the log goes, and how much of it is kept: FILE, FILE.1 (the one before), … FILE.`keep`.

    Args:
        path: absolute; folders are made.
        max_size: bytes after which a new file is begun.
        keep: how many of the old ones stay.
    """

    path: Path
    max_size: int = 10 * 1024**2
    keep: int = 5

    def generations(self) -> Iterator[Path]:
        """The current file, then the older ones, newest first."""
        yield self.path
        for number in range(1, self.keep + 1):
            yield self.path.with_name(f"{self.path.name}.{number}")


class RotatingStream:
    """Writes whole lines to a `LogFile`, for several threads.

    A file that somebody moved or deleted is noticed and begun anew, so that a second process, or a hand,
    may rotate too. Raises OSError from `write` when the disk is full or the folder is not writable.
    """

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._stream: IO[str] | None = None

    def write(self, text: str) -> int:
        """Append `text`, which is one or several whole lines."""
        with self._lock:
            stream = self._current()
            if self._file.max_size and stream.tell() + len(text) > self._file.max_size and stream.tell():
                stream = self._rotate(stream)
            stream.write(text)
            stream.flush()
            return len(text)

    def flush(self) -> None:
        """Nothing: each line is flushed as it is written."""

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def _current(self) -> IO[str]:
        if self._stream is not None and _is_at(self._stream, self._file.path):
            return self._stream
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._file.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._file.path.open("a", encoding="utf-8", errors="backslashreplace")
        return self._stream

    def _rotate(self, stream: IO[str]) -> IO[str]:
        stream.close()
        self._stream = None
        oldest_first = list(self._file.generations())[::-1]
        for older, newer in itertools.pairwise(oldest_first):
            if newer.exists():
                newer.replace(older)
        if not self._file.keep:
            self._file.path.unlink(missing_ok=True)
        return self._current()


def trim_output(stream: IO[str]) -> None:
    """Empty the file behind `stream` if it has grown: launchd appends crashes to it for ever."""
    try:
        found = os.fstat(stream.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size > _LARGEST_OUTPUT:
            os.ftruncate(stream.fileno(), 0)
    except (OSError, ValueError):
        return


def _is_at(stream: IO[str], path: Path) -> bool:
    try:
        found, ours = path.stat(), os.fstat(stream.fileno())
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)
