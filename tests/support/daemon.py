"""A real `pensieved run` in a child process, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class RunningDaemon:
    """A daemon process, its log lines (JSON) and its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self.output: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((process.stdout, self.output), (process.stderr, self.log))
        ]
        for reader in self._readers:
            reader.start()
        self.url = self._address()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in iter(stream.readline, ""))

    def _address(self) -> str:
        def listening() -> str | None:
            found = re.search(r"http://127\.0\.0\.1:\d+", "\n".join(self.output))
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"the daemon exited {self.process.returncode}: {self.log}")
            return found[0] if found else None

        return wait_for(listening, 120, "the daemon's address")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and decoded JSON of a GET."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def wait_ready(self, timeout: float = 240) -> None:
        """Block until /ready says 200."""
        wait_for(lambda: self.get("/ready")[0] == 200, timeout, "ready")

    def engine_pid(self) -> int:
        """The engine process as /v1/status names it."""
        return self.get("/v1/status")[1]["engine"]["pid"]

    def children(self) -> list[psutil.Process]:
        """Every process below the daemon."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def terminate(self, timeout: float = 60) -> int:
        """SIGTERM, then the exit code."""
        self.process.terminate()
        return self.finish(timeout)

    def finish(self, timeout: float = 60) -> int:
        """Wait for the end; closes the pipes."""
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for reader in self._readers:
                reader.join(5)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()


def wait_for(condition: Any, timeout: float, what: str) -> Any:
    """Poll until `condition()` is truthy and return that."""
    deadline = time.monotonic() + timeout
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.02)


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits for its parent; it may go while it is looked at."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def running_daemon(
    *args: str, cache: Path, env: Mapping[str, str] | None = None, ready: bool = True
) -> Iterator[RunningDaemon]:
    """`pensieved run ARGS --port 0` on `cache`; ends with SIGTERM and leaves nothing behind."""
    command = [sys.executable, "-m", "pensieved", "run", "--port", "0", "--cache-dir", str(cache), *args]
    home = {
        "XDG_CONFIG_HOME": str(cache / "no-config"),
        "PENSIEVED_LOGGING__FORMAT": "json",
        "PENSIEVED_PROMPT_CACHE__DISK": "0",  # the folder outlives the test, and what was asked must not
    }
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **home, **(env or {})},
    )
    daemon = None
    try:
        daemon = RunningDaemon(process)
        if ready:
            daemon.wait_ready()
        yield daemon
    finally:
        if process.poll() is None:
            process.terminate()
        if daemon is not None:
            daemon.finish()
        else:
            process.kill()
            process.communicate()
