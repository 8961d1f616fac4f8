"""The stand-in launchd as tests use it: set it up, look into it, and be sure that nothing of it remains."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from support.launchd_standin.store import ACTIVATION, VARIABLE, Config, Store

LAUNCHCTL = Path(__file__).parent / "launchctl"


class Launchd:
    """A launchd of its own in `folder`, for a user whose home is `home`."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.store = Store(folder)
        self.home = home
        self.agents = home / "Library" / "LaunchAgents"
        self.store.configure(Config(owner=os.getpid()))

    @property
    def env(self) -> dict[str, str]:
        """What a command needs in its environment to meet this launchd."""
        return {
            VARIABLE: str(self.store.folder),
            "LAUNCHCTL_STANDIN_PYTHON": sys.executable,
            "PENSIEVED_LAUNCHCTL": str(LAUNCHCTL),
            "HOME": str(self.home),
        }

    @property
    def domain(self) -> str:
        return f"{'gui' if self.store.config.graphical else 'user'}/{os.getuid()}"

    def configure(self, **changes) -> None:
        self.store.configure(replace(self.store.config, **changes))

    def provide_activation(self) -> None:
        """Have launch_activate_socket answer in the jobs. Raises FileNotFoundError where there is no C compiler."""
        source, library = (
            LAUNCHCTL.with_name("launchd_standin") / "activate.c",
            self.store.folder / ACTIVATION,
        )
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """launchctl by hand."""
        return subprocess.run(
            [LAUNCHCTL, *arguments], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **self.env}
        )  # fmt: skip

    def pid(self, label: str) -> int | None:
        """The process id that `print` shows."""
        lines = self.run("print", f"{self.domain}/{label}").stdout.splitlines()
        return next(
            (int(line.removeprefix("\tpid = ")) for line in lines if line.startswith("\tpid = ")), None
        )

    def close(self) -> None:
        """Boot everything out, without waiting for anybody's drain."""
        deadline = time.monotonic() + 60
        while processes := self._processes():
            assert time.monotonic() < deadline, "a supervisor of the stand-in does not end"
            for process in processes:
                _end(process)
            time.sleep(0.02)

    def _processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter(["cmdline", "status"]) if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        command = process.info["cmdline"] or []
        supervises = any(part.endswith("launchd_standin/supervisor.py") for part in command)
        return (
            supervises
            and str(self.store.folder) in command
            and process.info["status"] != psutil.STATUS_ZOMBIE
        )


def _end(supervisor: psutil.Process) -> None:
    """Told again and again: it may have been about to start its job when it was told first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        supervisor.terminate()
        for child in supervisor.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
