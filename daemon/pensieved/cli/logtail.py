"""The end of a log, and what is added to it; through rotations, and as people read it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pensieved.logfile import LogFile

_POLL = 0.2
_PLAIN = ("timestamp", "level", "event", "exception")


def last_lines(file: LogFile, count: int) -> list[str]:
    """The last `count` lines, reaching back into rotated files where the current one has fewer."""
    found: list[str] = []
    for path in file.generations():
        if len(found) >= count:
            break
        found = [*_tail(path, count - len(found)), *found]
    return found


def follow(path: Path, start: int) -> Iterator[str]:
    """Lines added to `path` after the byte `start`, for ever; goes on with the new file after a rotation."""
    stream = _open(path, start)
    try:
        pending = ""
        while True:
            left = stream is None or _was_replaced(
                stream, path
            )  # asked before reading: nobody adds to it afterwards
            pending += stream.readline() if stream else ""
            if pending.endswith("\n"):
                yield pending.rstrip("\n")
                pending = ""
                continue
            if left:
                if stream is not None:
                    stream.close()
                stream = _open(path, 0)
            if not left or stream is None:
                time.sleep(_POLL)
    finally:
        if stream is not None:
            stream.close()


def since(path: Path, start: int, count: int) -> list[str]:
    """The last `count` lines that were written to `path` after the byte `start`; all of it if it is new or shorter."""
    size = size_of(path)
    stream = _open(path, start if start <= size else 0)
    if stream is None:
        return []
    with stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=count)]


def size_of(path: Path) -> int:
    """Bytes in the file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def readable(line: str) -> str:
    """A JSON line as ``12:03:20 info  ready  model=x``; anything else as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    facts = "  ".join(f"{key}={_value(value)}" for key, value in entry.items() if key not in _PLAIN)
    head = f"{_clock(entry.get('timestamp'))} {entry.get('level', ''):<7} {entry['event']}"
    trace = f"\n{entry['exception']}" if entry.get("exception") else ""
    return (f"{head}  {facts}" if facts else head) + trace


def _tail(path: Path, count: int) -> list[str]:
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=count)]
    return []


def _open(path: Path, start: int) -> IO[str] | None:
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except OSError:
        return None
    stream.seek(start)
    return stream


def _was_replaced(stream: IO[str], path: Path) -> bool:
    """Whether `path` is another file by now, or was emptied."""
    try:
        found = path.stat()
    except OSError:
        return False  # between the two renames of a rotation
    return found.st_ino != os.fstat(stream.fileno()).st_ino or found.st_size < stream.tell()


def _clock(stamp: Any) -> str:
    """Local time of day with the date where it is not today's."""
    try:
        local = datetime.fromisoformat(str(stamp)).astimezone()
    except ValueError:
        return str(stamp or "")
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")


def _value(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)
