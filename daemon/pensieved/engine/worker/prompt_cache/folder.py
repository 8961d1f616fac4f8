"""The folder of entries on disk: one for each model, one quota for all of them, one writer at a time.

    ROOT/writer.lock           held by the engine that writes here; the kernel releases it with the process
    ROOT/MODEL+FINGERPRINT/    entries of one model, as its weights, tokenizer, template and libraries are now

An engine without the lock reads, and tells the age of what it used. Deleting a file is always safe, since who has it
open keeps it. When a file was last used is its modification time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pensieved.engine.worker.prompt_cache.file import SUFFIX, TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

LOCK = "writer.lock"
_TOUCH_SECONDS = 60
"""Uses closer together than this are one."""


@dataclass(frozen=True)
class _Found:
    path: Path
    size: int
    used: float


class Folder:
    """Entries of one model, among those of others.

    Args:
        own: the folder; its parent is the root.
        quota: bytes of all models' entries together.
        ttl: seconds without use after which an entry goes; 0: it never does.
    """

    def __init__(self, own: Path, quota: int, ttl: float) -> None:
        self.own = own
        self._quota = quota
        self._ttl = ttl
        self._lock: int | None = None
        self.bytes = 0
        self.entries = 0

    @property
    def is_writer(self) -> bool:
        """Whether this is the engine that writes."""
        return self._lock is not None

    def claim(self) -> bool:
        """Become the writer, if there is none; True when this has just happened. Raises OSError."""
        if self._lock is not None:
            return False
        for folder in (self.own.parent, self.own):  # what people said is in there, as token ids
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.own.parent / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        self._collect()
        self.make_room(0)
        return True

    def release(self) -> None:
        """Let another engine write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def paths(self) -> list[Path]:
        """All entries of the model."""
        return [found.path for found in self._entries([self.own])]

    def make_room(self, size: int) -> list[Path] | None:
        """Delete what is too old or too much, for `size` more bytes; what was deleted, or None where they never fit."""
        if size > self._quota:
            return None
        found = sorted(self._entries(self._folders()), key=lambda each: each.used)
        oldest = time.time() - self._ttl if self._ttl else 0.0
        held = sum(each.size for each in found)
        deleted = []
        for each in found:
            if each.used >= oldest and held + size <= self._quota:
                break
            each.path.unlink(missing_ok=True)
            deleted.append(each.path)
            held -= each.size
        self.bytes, self.entries = held, len(found) - len(deleted)
        return deleted

    def added(self, size: int) -> None:
        """An entry of `size` bytes was written."""
        self.bytes += size
        self.entries += 1

    def count(self) -> None:
        """Look how much there is."""
        found = list(self._entries(self._folders()))
        self.bytes, self.entries = sum(each.size for each in found), len(found)

    def touch(self, lineage: Sequence[Path], *, always: bool = False) -> None:
        """These were used just now, each continuing the one before.

        What others continue counts as used after them, so that it is never deleted first. Without `always`, uses in
        quick succession are one.
        """
        now = time.time_ns()
        with contextlib.suppress(OSError):  # deleted meanwhile
            if always or now - lineage[-1].stat().st_mtime_ns > _TOUCH_SECONDS * 10**9:
                for depth, path in enumerate(lineage):
                    os.utime(path, ns=(now - depth * 1000, now - depth * 1000))

    def _collect(self) -> None:
        """Delete what nobody will use: halves of files, and entries of the model as it once was."""
        model = self.own.name.partition("+")[0]
        for folder in self._folders():
            if folder != self.own and folder.name.partition("+")[0] == model:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for temporary in folder.glob(f"*{TEMPORARY}"):
                temporary.unlink(missing_ok=True)
            if folder != self.own:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()

    def _folders(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [each for each in self.own.parent.iterdir() if "+" in each.name and each.is_dir()]
        return []

    @staticmethod
    def _entries(folders: Iterable[Path]) -> Iterator[_Found]:
        for folder in folders:
            with contextlib.suppress(OSError), os.scandir(folder) as items:
                for item in items:
                    if item.name.endswith(SUFFIX):
                        with contextlib.suppress(OSError):  # deleted meanwhile
                            found = item.stat()
                            yield _Found(folder / item.name, found.st_size, found.st_mtime)
