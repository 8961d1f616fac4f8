"""Children: started in the open, looked at from outside, ended with everything below them."""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from bench.figures import rounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_END_SECONDS = 60.0
_FOOTPRINT_AT = 16 + 7 * 8  # ri_phys_footprint in struct rusage_info_v0, <sys/resource.h> of macOS
_FOLDERS = re.compile(r"(?<![\w:/])/(?:[\w.@+-]+/)+")


class ContestantError(Exception):
    """A contestant did not start or did not do its work."""


class StartError(ContestantError):
    """It did not even start: there is no use in asking it for more."""


class Child:
    """A process whose output goes to a file. `begun` is when it was started, on time.perf_counter's clock."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, **pipes: Any
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": sink, **pipes}
            self.begun = time.perf_counter()
            self.process = subprocess.Popen(
                command, env=dict(environment), stderr=sink, start_new_session=True, **pipes
            )

    def check(self) -> None:
        """Raises ContestantError, with its last words, if it has ended."""
        if self.process.poll() is not None:
            raise ContestantError(
                f"it ended with {self.process.returncode}: {self.last_words()} ({self.log.name})"
            )

    def last_words(self) -> str:
        """The last line of its output, without this machine's folders; the rest is in its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return _FOLDERS.sub("", lines[-1]) if lines else "it said nothing"

    def tree(self) -> list[psutil.Process]:
        """It, and every process below it."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def end(self) -> None:
        """SIGTERM, and later SIGKILL for whatever is left of it."""
        family = self.tree()
        self.process.terminate()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in filter(None, (self.process.stdin, self.process.stdout)):
            pipe.close()
        for left in psutil.wait_procs(family[1:], timeout=5)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()


def look(family: Sequence[psutil.Process]) -> list[dict[str, Any]]:
    """Role, memory in bytes, descriptors, threads and processor time in seconds of each process that still runs."""
    seen = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied), process.oneshot():
            seen.append(
                {
                    "role": _role(process, first=process is family[0]),
                    "memory": memory(process),
                    "fds": process.num_fds(),
                    "threads": process.num_threads(),
                    "cpu": rounded(sum(process.cpu_times()[:2])),
                }
            )
    return seen


def _role(process: psutil.Process, *, first: bool) -> str:
    if "pensieved.engine.worker" in process.cmdline():
        return "engine"
    return "server" if first else "child"


def memory(process: psutil.Process) -> int:
    """Resident bytes; on macOS the footprint, since the resident size there leaves out what Metal holds."""
    if sys.platform == "darwin":
        buffer = ctypes.create_string_buffer(256)
        if ctypes.CDLL(None).proc_pid_rusage(process.pid, 0, buffer) == 0:
            return int.from_bytes(buffer[_FOOTPRINT_AT : _FOOTPRINT_AT + 8], sys.byteorder)
    return int(process.memory_info().rss)


def gpu_memory() -> int | None:
    """Bytes in use on all NVIDIA GPUs, whoever uses them; None where there are none."""
    words = nvidia("memory.used")
    return sum(int(line) for line in words.split()) * 2**20 if words else None


def nvidia(query: str) -> str:
    """What nvidia-smi says, without units; empty where there is no such GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
