"""Entries that outlive the engine: written and read on threads of their own, so that no step waits for a disk."""

from __future__ import annotations

import math
import queue
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from pensieved.engine.worker.prompt_cache.entry import TOKENS, Entry, Filed
from pensieved.engine.worker.prompt_cache.file import (
    SUFFIX,
    DamagedError,
    file_name,
    read_file,
    read_header,
    size_of,
    write_file,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from pensieved.engine.worker.prompt_cache.file import Piece
    from pensieved.engine.worker.prompt_cache.folder import Folder

BACKLOG = 1024**3
"""Bytes that may wait to be written: they are held in memory until then."""
_READERS = 2
_UNKNOWN_TO_NUMPY = {"bfloat16": "uint16"}
"""Types that numpy lacks, and those as which their bytes travel."""


class Read:
    """What was read of an entry, not yet in the types that it had: MLX computes on the step loop's thread alone.

    Attributes:
        room: whether it has room around it; see `Disk.read`.
    """

    def __init__(self, raw: Sequence[mx.array], kinds: Sequence[str], *, room: bool) -> None:
        self.room = room
        self._raw = raw
        self._kinds = kinds

    def arrays(self) -> list[mx.array]:
        """The arrays."""
        return [
            array.view(getattr(mx, kind)) if kind in _UNKNOWN_TO_NUMPY else array
            for array, kind in zip(self._raw, self._kinds, strict=True)
        ]


@dataclass
class _Export:
    """An entry on its way to the thread that writes: `left` is still the device's, `done` is bytes."""

    entry: Entry
    kinds: list[str]
    left: deque[mx.array]
    done: list[np.ndarray] = field(default_factory=list)


class Disk:
    """What of the cache is on disk. Its methods are for the step loop's thread, and none of them waits.

    Args:
        folder: where.
        fingerprint: of the model and all that its KV cache depends on.
    """

    def __init__(self, folder: Folder, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._writing = ThreadPoolExecutor(1, "prompt cache writer")
        self._readers = ThreadPoolExecutor(_READERS, "prompt cache reader")
        self._entries: dict[Path, Entry] = {}
        self._lost: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._backlog = 0
        self._exports: deque[_Export] = deque()
        self._fresh = True  # nothing was looked at yet

    @property
    def usage(self) -> tuple[int, int]:
        """Entries and bytes, of all models."""
        return self._folder.entries, self._folder.bytes

    def found(self) -> list[Entry]:
        """Entries on disk that were not told of before, what others continue first.

        There are some at the start, and after the engine that wrote before has gone.
        """
        if not (self._claim() or self._fresh):
            return []
        self._fresh = False
        found = [entry for path in self._folder.paths() if (entry := self._indexed(path)) is not None]
        self._folder.count()
        return sorted(found, key=lambda entry: entry.start)

    def read(self, entry: Entry, capacity: int = 0) -> Future[Read | None]:
        """What is on disk of `entry`; None where it cannot be had.

        Args:
            entry: on disk.
            capacity: if not 0, tokens that its arrays are to have room for, more than the entry ends at. They are those of plain
                caches then, and its own tokens lie where they belong, between zeros.
        """
        return self._readers.submit(self._read, entry, capacity)

    def write(self, entry: Entry) -> bool:
        """Have `entry`, which is in memory, written, as `export` goes on; False where that cannot be done."""
        if not self._folder.is_writer or entry.arrays is None or self._backlog > BACKLOG:
            return False
        entry.filed = Filed.COMING
        self._backlog += entry.nbytes
        kinds = [_kind(array) for array in entry.arrays]
        self._exports.append(_Export(entry, kinds, deque(entry.arrays)))
        return True

    def export(self, seconds: float = math.inf) -> bool:
        """Fetch what is to be written from the device, for about so long; whether there is more.

        From a GPU's own memory a long prompt takes tens of milliseconds, for which nobody's next token should wait. Where memory is
        shared, there is nothing to fetch.
        """
        until = time.perf_counter() + seconds
        while self._exports:
            export = self._exports[0]
            if export.left and not export.entry.gone:
                export.done.append(_exported(export.left.popleft(), export.kinds[len(export.done)]))
            else:
                self._exports.popleft()
                self._writing.submit(self._write, export.entry, export.done, export.kinds)
            if time.perf_counter() >= until:
                break
        return bool(self._exports)

    def touch(self, entries: Sequence[Entry]) -> None:
        """These were used, each continuing the one before."""
        paths = [entry.path for entry in entries if entry.path is not None]
        if paths:
            self._folder.touch(paths)

    def lost(self) -> list[Entry]:
        """Entries that turned out not to be on disk."""
        lost = []
        while not self._lost.empty():
            lost.append(self._lost.get())
        return lost

    def discard(self, entry: Entry) -> None:
        """Delete the file of an entry that was forgotten."""
        if entry.path is not None and self._folder.is_writer:
            self._writing.submit(self._remove, entry.path)

    def flush(self) -> None:
        """Wait until all is written that was to be."""
        self.export()
        self._writing.submit(lambda: None).result()

    def close(self) -> None:
        """Finish what was begun, and let another engine write."""
        self.export()
        self._writing.shutdown()
        self._readers.shutdown()
        self._folder.release()

    def _claim(self) -> bool:
        try:
            return self._folder.claim()
        except OSError as error:
            _complain(f"cannot be written to: {error}")
            return False

    def _indexed(self, path: Path) -> Entry | None:
        if path in self._entries:
            return None
        try:
            header = read_header(path, self._fingerprint)
        except (DamagedError, OSError) as error:
            self._drop(path, error)
            return None
        tokens = np.frombuffer(header.tokens, "<u4").astype(np.uint32)
        entry = Entry(tokens, header.start, header.form, None, header.nbytes, Filed.YES, path)
        self._entries[path] = entry
        return entry

    # --- on the threads ------------------------------------------------------------------------------------

    def _read(self, entry: Entry, capacity: int) -> Read | None:
        path = entry.path
        if path is None:
            return None
        try:
            header, arrays = read_file(
                path, entry.tokens, entry.start, partial(_Import, capacity, entry.start)
            )
            return Read(arrays, [piece.kind for piece in header.pieces], room=bool(capacity))
        except (DamagedError, OSError, TypeError, ValueError) as error:
            self._drop(path, error)
            return None

    def _write(self, entry: Entry, arrays: Sequence[np.ndarray], kinds: Sequence[str]) -> None:
        try:
            entry.path = None if entry.gone else self._store(entry, arrays, kinds)
        except OSError as error:
            _complain(f"cannot be written to: {error}")
        self._backlog -= entry.nbytes
        entry.filed = Filed.NO if entry.path is None else Filed.YES
        if entry.path is None:
            self._lost.put(entry)
        elif entry.gone:
            self._remove(entry.path)
        else:
            self._entries[entry.path] = entry
            lineage = [each.path for each in entry.lineage() if each.path is not None]
            self._folder.touch(lineage, always=True)

    def _store(self, entry: Entry, arrays: Sequence[np.ndarray], kinds: Sequence[str]) -> Path | None:
        deleted = self._folder.make_room(size_of(arrays, entry.tokens))
        if deleted is None:
            return None
        for path in deleted:
            self._mark_lost(path)
        path = self._folder.own / f"{file_name(entry.tokens, entry.start)}{SUFFIX}"
        write_file(
            path,
            fingerprint=self._fingerprint,
            tokens=entry.tokens,
            start=entry.start,
            form=entry.form,
            arrays=arrays,
            kinds=kinds,
        )
        self._folder.added(path.stat().st_size)
        return path

    def _mark_lost(self, path: Path) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            entry.path, entry.filed = None, Filed.NO
            self._lost.put(entry)

    def _remove(self, path: Path) -> None:
        self._entries.pop(path, None)
        path.unlink(missing_ok=True)
        self._folder.count()

    def _drop(self, path: Path, error: Exception) -> None:
        """A file that is not what was written: it is never served, and goes."""
        if not isinstance(error, FileNotFoundError):
            _complain(f"has a file that is of no use, {path.name}: {error}")
            path.unlink(missing_ok=True)


def _kind(array: mx.array) -> str:
    return str(array.dtype).rpartition(".")[2]


def _exported(array: mx.array, kind: str) -> np.ndarray:
    """The array's bytes, without a copy; waits for its computation."""
    known: Any = _UNKNOWN_TO_NUMPY.get(kind)
    return np.asarray(array.view(getattr(mx, known)) if known else array)


class _Import:
    """Makes arrays of bytes; with a `capacity`, such as have room for so many tokens, their own from `start` on."""

    def __init__(self, capacity: int, start: int) -> None:
        self._capacity = capacity
        self._start = start
        self._near: np.ndarray | None = None  # with room; the same memory for all arrays of a shape

    def __call__(self, raw: np.ndarray, piece: Piece) -> mx.array:
        kind = _UNKNOWN_TO_NUMPY.get(piece.kind, piece.kind)
        array = raw.view(kind).reshape(piece.shape)
        return mx.array(self._with_room(array) if self._capacity else array)

    def _with_room(self, array: np.ndarray) -> np.ndarray:
        shape = (*array.shape[:TOKENS], self._capacity, *array.shape[TOKENS + 1 :])
        if self._near is None or self._near.shape != shape or self._near.dtype != array.dtype:
            self._near = np.zeros(shape, array.dtype)
        self._near[:, :, self._start : self._start + array.shape[TOKENS]] = array
        return self._near


def _complain(what: str) -> None:
    """A line for the log: the supervisor forwards what the engine prints."""
    print(f"prompt cache: the folder {what}", file=sys.stderr, flush=True)  # noqa: T201
