"""The folder of prepared models: who may write, who reads, and what a crash leaves behind.

    DIR/models/KEY/vN/           one prepared folder, complete and verified when it appears here
    DIR/models/KEY/current       symbolic link to the one that counts
    DIR/staging/KEY+…/           work in progress, and what is being deleted
    DIR/locks/KEY.lock           held by the one writer of KEY
    DIR/wheels/                  wheels fetched for pypi: sources

Every change of state is one rename: a kill at any instant leaves the old state or the new one. Only the
holder of KEY's lock works under ``staging/KEY+…``, so whoever gets that lock knows that what lies there is
dead. Readers hold a shared lock on the folder they read (`Lease`); superseded folders are deleted when
nobody does. The kernel releases both kinds of lock with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pensieved.errors import PermanentError
from pensieved.models.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pensieved.models.source import Source

_LEASE_FILE = ".readers"
_CURRENT = "current"
_WAIT_NOTICE_SECONDS = 1.0


def cache_key(source: Source, quantization: str, backend: str) -> str:
    """The folder name of a model: readable, and different for whatever must be prepared apart."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "--", source.name).strip(".-") or "model"
    identity = f"{source.canonical}\n{quantization}\n{backend}"
    return f"{slug[:80]}-{quantization}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


class Lease:
    """A reader's hold on a prepared folder: it is not deleted while the lease lives."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder is gone or is being deleted."""
        descriptor = os.open(folder / _LEASE_FILE, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let go; doing so twice is harmless."""
        self._close()


@dataclass(frozen=True)
class Entry:
    """One model in the cache; `folder` and `manifest` are None where it is damaged or half removed."""

    key: str
    folder: Path | None
    manifest: Manifest | None


class ModelCache:
    """The cache in `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.wheels = self.root / "wheels"
        self._models = self.root / "models"
        self._staging = self.root / "staging"
        self._locks = self.root / "locks"

    def current(self, key: str) -> Path | None:
        """The prepared folder of `key`, or None."""
        link = self._models / key / _CURRENT
        try:
            return link.resolve(strict=True)
        except OSError:
            return None

    def entries(self) -> list[Entry]:
        """All models, by key."""
        keys = sorted(path.name for path in self._models.iterdir()) if self._models.is_dir() else []
        found = []
        for key in keys:
            folder = self.current(key)
            found.append(Entry(key, folder, read_manifest(folder) if folder else None))
        return found

    @contextlib.contextmanager
    def writer(self, key: str, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
        """Be the one writer of `key`; waits for another one, and says so once through `on_wait`."""
        lock = self._lock(key)
        try:
            lock.acquire(timeout=_WAIT_NOTICE_SECONDS)
        except Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire()
        try:
            self._sweep(key)
            yield
            self._sweep(key)
        finally:
            lock.release()

    def new_staging(self, key: str) -> Path:
        """An empty folder to work in, for the writer of `key`."""
        self._staging.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{key}+", dir=self._staging))

    def publish(self, key: str, prepared: Path) -> Path:
        """Make the folder `prepared` the current one of `key`; returns where it lies now.

        Its files must be on disk (fsync) already. The one before stays until nobody reads it.
        """
        (prepared / _LEASE_FILE).touch()
        home = self._models / key
        home.mkdir(parents=True, exist_ok=True)
        taken = {path.name for path in home.iterdir()}
        version = next(name for n in range(1, len(taken) + 2) if (name := f"v{n}") not in taken)
        prepared.rename(home / version)
        link = self.new_staging(key) / _CURRENT
        link.symlink_to(version)
        link.replace(home / _CURRENT)
        sync_folder(home)
        self._sweep(key)
        return home / version

    def remove(self, key: str) -> None:
        """Delete a model.

        Raises:
            PermanentError: it is being prepared or read.
        """
        home = self._models / key
        with self._idle_writer(key), contextlib.ExitStack() as held:
            for version in _versions(home):
                if not held.enter_context(_exclusive(version)):
                    raise PermanentError(
                        f"{key} is in use by a running pensieved.",
                        hint="Stop it first, or let it serve another model.",
                    )
            self._discard(key, home)
        self._drop_unused_wheels()

    def collect_garbage(self, *, dry_run: bool = False) -> list[Path]:
        """Delete what crashes and updates left behind; returns the folders."""
        dead: list[Path] = []
        for key in sorted(self._keys()):
            with contextlib.suppress(PermanentError), self._idle_writer(key):
                dead += self._dead(key)
                if not dry_run:
                    self._sweep(key)
        return dead

    def prune(self, keep: Collection[str], *, dry_run: bool = False) -> list[Entry]:
        """Delete all models but those whose key is in `keep` or which are in use; returns those deleted."""
        pruned = []
        for entry in self.entries():
            if entry.key in keep or self._in_use(entry.key):
                continue
            if not dry_run:
                try:
                    self.remove(entry.key)
                except PermanentError:  # somebody began to use or prepare it just now
                    continue
            pruned.append(entry)
        if not dry_run:
            self.collect_garbage()
            self._drop_unused_wheels()
        return pruned

    def _drop_unused_wheels(self) -> None:
        """A wheel serves to repair the model that came from it; one that is missed is fetched again."""
        used = {file.path for entry in self.entries() if entry.manifest for file in entry.manifest.sources}
        for wheel in self.wheels.glob("*/*.whl"):
            if wheel.name not in used:
                wheel.unlink(missing_ok=True)

    def _in_use(self, key: str) -> bool:
        with contextlib.ExitStack() as held:
            return not all(held.enter_context(_exclusive(path)) for path in _versions(self._models / key))

    def _keys(self) -> set[str]:
        staged = {path.name.partition("+")[0] for path in _children(self._staging)}
        return staged | {path.name for path in _children(self._models)}

    def _lock(self, key: str) -> FileLock:
        self._locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self._locks / f"{key}.lock")

    @contextlib.contextmanager
    def _idle_writer(self, key: str) -> Iterator[None]:
        try:
            lock = self._lock(key)
            lock.acquire(blocking=False)
        except Timeout:
            raise PermanentError(
                f"{key} is being prepared by another process.", hint="Try again later."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _dead(self, key: str) -> list[Path]:
        """Abandoned staging folders and superseded versions. Only for the writer of `key`."""
        current = self.current(key)
        versions = [path for path in _versions(self._models / key) if path != current]
        return [path for path in _children(self._staging) if path.name.startswith(f"{key}+")] + versions

    def _sweep(self, key: str) -> None:
        for path in self._dead(key):
            if path.parent == self._staging:
                shutil.rmtree(path, ignore_errors=True)
                continue
            with _exclusive(path) as unused:
                if unused:
                    self._discard(key, path)

    def _discard(self, key: str, path: Path) -> None:
        """Delete so that a kill half way leaves nothing that looks like a model."""
        if path.exists():
            trash = self.new_staging(key)
            path.rename(trash / path.name)
            shutil.rmtree(trash, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _versions(home: Path) -> list[Path]:
    return [path for path in _children(home) if path.name != _CURRENT and not path.is_symlink()]


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[bool]:
    """Whether nobody holds a lease on the folder, for as long as the context lasts."""
    try:
        descriptor = os.open(folder / _LEASE_FILE, os.O_RDONLY)
    except FileNotFoundError:  # killed before it was published: nobody can read it
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
