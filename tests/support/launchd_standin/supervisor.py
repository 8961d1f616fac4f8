"""The process that keeps one loaded job: starts it, restarts it, ends it, and tells how it is.

`python supervisor.py FOLDER LABEL`: reads jobs/LABEL/job.json, answers requests on jobs/LABEL/control (one JSON
object per connection), and removes jobs/LABEL when the job is booted out. Single-threaded: one `select` over
requests, dead children and the next point in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launchd_standin.jobs import (
    DEFAULT_EXIT_TIMEOUT,
    DEFAULT_THROTTLE,
    bind_sockets,
    kept_alive,
    runs_at_load,
    spawn,
)
from launchd_standin.store import ACTIVATION, Store

if TYPE_CHECKING:
    import subprocess

_LOOK_AT_OWNER = 0.5
_EX_CONFIG = 78


class Supervisor:
    """State of one job."""

    def __init__(self, store: Store, label: str) -> None:
        self.store = store
        self.label = label
        self.spec: dict[str, Any] = json.loads((store.job(label) / "job.json").read_text())
        self.plist: dict[str, Any] = self.spec["plist"]
        self.config = store.config
        self.child: subprocess.Popen[bytes] | None = None
        self.runs = 0
        self.last_exit: int | None = None
        self.spawned = -1e9
        self.spawn_at: float | None = time.monotonic() if runs_at_load(self.plist) else None
        self.kill_at: float | None = None
        self.leaving = False
        self.again = False
        self.sockets = bind_sockets(self.plist)

    def serve(self) -> None:
        """Until booted out, or the owner is gone."""
        wake_read, wake_write = os.pipe()
        for end in (wake_read, wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.boot_out())
        os.chdir(self.store.job(self.label))  # a socket's path may have 104 bytes only
        with socket.socket(socket.AF_UNIX) as control:
            control.bind("control.new")
            control.listen()
            self.act()  # what runs at load is started before `bootstrap` returns, and anybody asks
            Path("control.new").rename("control")
            while not (self.leaving and self.child is None):
                waiting = self.listeners()
                ready, _, _ = select.select([control, wake_read, *waiting], [], [], self.patience())
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 512)
                self.reap()
                if control in ready:
                    self.answer(control)
                if any(each in ready for each in waiting) and self.child is None:
                    self.spawn_at = self.spawned + self.throttle()
                self.act()

    def listeners(self) -> list[socket.socket]:
        """Those on which a connection starts the job: all, while it neither runs nor is about to."""
        if self.child is not None or self.spawn_at is not None or self.leaving:
            return []
        return [each for group in self.sockets.values() for each in group]

    def throttle(self) -> float:
        return self.plist.get("ThrottleInterval", DEFAULT_THROTTLE) * self.config.throttle_scale

    def patience(self) -> float:
        now = time.monotonic()
        return max(
            0.0, min([_LOOK_AT_OWNER, *(at - now for at in (self.spawn_at, self.kill_at) if at is not None)])
        )

    def act(self) -> None:
        """What is due now."""
        now = time.monotonic()
        if not _alive(self.config.owner) or not self.store.job(self.label).exists():
            self.boot_out()
            self.kill(signal.SIGKILL)
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            self.kill(signal.SIGKILL)
        if self.spawn_at is not None and now >= self.spawn_at and self.child is None and not self.leaving:
            self.spawn()

    def spawn(self) -> None:
        self.spawn_at, self.spawned = None, time.monotonic()
        self.runs += 1
        try:
            self.child = spawn(
                self.plist, self.spec["home"], self.sockets, str(self.store.folder / ACTIVATION)
            )
        except OSError:
            self.ended(_EX_CONFIG)

    def reap(self) -> None:
        if self.child is not None and (status := self.child.poll()) is not None:
            group, self.child, self.kill_at = self.child.pid, None, None
            if not (self.plist.get("AbandonProcessGroup") or self.config.spare_process_group):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            self.ended(status)

    def ended(self, status: int) -> None:
        self.last_exit = status
        if self.again:
            self.again, self.spawn_at = False, time.monotonic()
        elif kept_alive(self.plist, status):
            self.spawn_at = self.spawned + self.throttle()

    def kill(self, number: int) -> None:
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL after ExitTimeOut."""
        if self.child is not None and self.kill_at is None:
            timeout = self.plist.get("ExitTimeOut", DEFAULT_EXIT_TIMEOUT)
            self.kill_at = time.monotonic() + timeout if timeout else None
            self.kill(signal.SIGTERM)

    def boot_out(self) -> None:
        self.leaving, self.spawn_at, self.again = True, None, False
        self.terminate()

    def answer(self, control: socket.socket) -> None:
        """One request, one reply: the exit code and the job's state."""
        connection, _ = control.accept()
        with connection, connection.makefile("rwb") as stream:
            connection.settimeout(5)
            with contextlib.suppress(OSError, ValueError):  # a client that went away
                code = self.do(json.loads(stream.readline()))
                stream.write(json.dumps({"code": code, **self.state()}).encode() + b"\n")

    def do(self, request: dict[str, Any]) -> int:
        match request["do"]:
            case "kickstart" if self.leaving:
                return 37
            case "kickstart" if self.child is not None and not request["kill"]:
                return 37
            case "kickstart" if self.child is not None:
                self.again = True
                self.terminate()
            case "kickstart" | "start":
                self.spawn_at = time.monotonic() if self.child is None else None
                self.act()
            case "stop":
                self.terminate()
            case "kill":
                self.kill(request["signal"])
            case "bootout":
                already, _ = self.leaving, self.boot_out()
                return 36 if already else 0
        return 0

    def state(self) -> dict[str, Any]:
        scheduled = "spawn scheduled" if self.spawn_at is not None else "not running"
        running = "SIGTERMed" if self.kill_at is not None else "running"
        return {
            "state": running if self.child else scheduled,
            "pid": self.child.pid if self.child else None,
            "runs": self.runs,
            "last_exit": self.last_exit,
        }


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """The supervisor of one job, until it is booted out."""
    store, label = Store(Path(sys.argv[1])), sys.argv[2]
    supervisor = Supervisor(store, label)
    try:
        supervisor.serve()
    finally:
        supervisor.kill(signal.SIGKILL)
        if supervisor.child is not None:
            supervisor.child.wait()
        store.forget(label)


if __name__ == "__main__":
    main()
