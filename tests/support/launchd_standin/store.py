"""The folder in which the stand-in keeps what launchd keeps in its head."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "LAUNCHCTL_STANDIN"
ACTIVATION = "activate.so"
"""The library, made of activate.c, through which a job gets its sockets."""


@dataclass(frozen=True)
class Config:
    """How this launchd behaves. Times in seconds.

    Args:
        graphical: whether the user is logged in at the screen, so that gui/UID exists.
        no_session_code: what gui/UID answers where they are not: 125 or 112.
        drain: how long after a job is gone bootstrap still answers 5.
        throttle_scale: factor on every ThrottleInterval.
        disabled_code: what bootstrap answers for a disabled label: 119, on older systems 5.
        spare_process_group: leave what a dead job's process group still holds, unlike launchd, to see who orphans what.
        owner: process id; when it is gone, everything ends.
    """

    graphical: bool = True
    no_session_code: int = 125
    drain: float = 0.3
    throttle_scale: float = 0.05
    disabled_code: int = 119
    spare_process_group: bool = False
    owner: int = 0


class Store:
    """Reads and writes the folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ[VARIABLE])
        self.jobs = self.folder / "jobs"
        self._gone = self.folder / "gone"

    @property
    def config(self) -> Config:
        return Config(**self._read("config.json"))

    def configure(self, config: Config) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("config.json", asdict(config))

    @contextlib.contextmanager
    def locked(self):
        """One changing command at a time, as launchd is one process."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def overrides(self) -> dict[str, bool]:
        """Labels that were ever enabled or disabled, and whether they are disabled."""
        return self._read("overrides.json")

    def override(self, label: str, *, disabled: bool) -> None:
        self._write("overrides.json", {**self.overrides, label: disabled})

    @property
    def switched_off(self) -> list[str]:
        return self._read("login-items.json").get("off", [])

    def switch_off(self, *labels: str) -> None:
        """What the user does in System Settings > Login Items."""
        self._write("login-items.json", {"off": list(labels)})

    def job(self, label: str) -> Path:
        return self.jobs / label

    def loaded(self) -> list[str]:
        return sorted(path.name for path in self.jobs.iterdir()) if self.jobs.is_dir() else []

    def forget(self, label: str) -> None:
        """The job is gone: `print` answers 113 from now on, and bootstrap 5 for a while."""
        self._gone.mkdir(exist_ok=True)
        (self._gone / label).touch()
        shutil.rmtree(self.job(label), ignore_errors=True)

    def draining(self, label: str) -> bool:
        try:
            return time.time() - (self._gone / label).stat().st_mtime < self.config.drain
        except FileNotFoundError:
            return False

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        draft = self.folder / f"{name}.{os.getpid()}"
        draft.write_text(json.dumps(content))
        draft.replace(self.folder / name)
