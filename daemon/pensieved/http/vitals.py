"""What the system says of the daemon's memory, processor time and disk: asked for, never remembered for long."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pensieved.settings.paths import PROMPTS

if TYPE_CHECKING:
    from pensieved.http.daemon import Daemon

PARTS = ("models", "staging", "wheels", PROMPTS)
"""Folders of the cache that are told apart; see `models.cache` and `control.promptcache`."""

OTHER_PART = "other"
_DISK_SECONDS = 10.0  # for which a look through the cache holds


class Vitals:
    """The daemon's process, its engine's, and its cache folder. Sizes in bytes; safe from any thread."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._looked: tuple[float, Path, dict[str, int]] | None = None

    @property
    def resident(self) -> int:
        """Memory of this process."""
        return int(self._process.memory_info().rss)

    @property
    def engine_resident(self) -> int | None:
        """Memory of the engine's process as the system counts it; None where there is none."""
        stats = self._daemon.engine_stats()
        if stats is None or stats.pid is None:
            return None
        try:
            return int(psutil.Process(stats.pid).memory_info().rss)
        except psutil.Error:  # it has just gone
            return None

    @property
    def cpu_seconds(self) -> float:
        """Processor time of this process, in user and system mode."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    @property
    def open_files(self) -> int:
        """File descriptors of this process."""
        return int(self._process.num_fds())

    @property
    def started_at(self) -> float:
        """When this process began, in seconds since the epoch."""
        return float(self._process.create_time())

    @property
    def cache_dir(self) -> Path:
        """The folder of prepared models."""
        return self._daemon.settings.cache.dir

    def cache_bytes(self) -> dict[str, int]:
        """What the cache takes on disk, by part; what it only links to is not its own."""
        with self._lock:
            now, folder = time.monotonic(), self.cache_dir
            if self._looked is None or self._looked[1] != folder or now - self._looked[0] > _DISK_SECONDS:
                self._looked = now, folder, _sizes(folder)
            return self._looked[2]

    def free_bytes(self) -> int | None:
        """What is left on the cache's disk; None where it cannot be told."""
        for folder in (self.cache_dir, *self.cache_dir.parents):
            try:
                return shutil.disk_usage(folder).free
            except FileNotFoundError:  # not made yet
                continue
            except OSError:
                return None
        return None


def _sizes(folder: Path) -> dict[str, int]:
    sizes = dict.fromkeys((*PARTS, OTHER_PART), 0)
    for place, _, names in os.walk(folder):
        part = os.path.relpath(place, folder).partition(os.sep)[0]
        sizes[part if part in PARTS else OTHER_PART] += sum(_size(Path(place, name)) for name in names)
    return sizes


def _size(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:  # deleted meanwhile
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
