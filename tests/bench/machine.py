"""What the figures were measured on: nothing that names the machine, everything that explains its speed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from bench.process import nvidia

_PACKAGES = (
    *("pensieved", "mlx", "mlx-lm", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-metal"),
    *("transformers", "tokenizers", "scipy-openblas32", "falcon", "waitress"),
)


def facts() -> dict[str, Any]:
    """Processor, memory, GPUs, system, and how busy the machine was when the run began."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "usable_processors": _usable(),
        "memory": psutil.virtual_memory().total,
        "gpus": [line.strip() for line in nvidia("name").splitlines()],
        "gpu_driver": nvidia("driver_version").partition("\n")[0],
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of Python, of the packages that do the work, and the commit they were built from."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | _commit()


def _commit() -> dict[str, str]:
    """Of this checkout; empty where it is none, as when the files were brought over."""
    here, commands = Path(__file__).parent, (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    said = []
    for words in commands:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        said.append(done.stdout.strip())
    return {"commit": said[0] + (" and uncommitted changes" if said[1] else "")}


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _processor() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
