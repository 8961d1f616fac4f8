"""The machine and what is installed on it."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pensieved import __version__
from pensieved.cli.checks.finding import Finding, Level
from pensieved.machine import total_memory
from pensieved.settings.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.cli.checks.scene import Scene

OLDEST_MACOS = 14
"""MLX's wheels for macOS begin here."""

LITTLE_MEMORY = 8 * 1024**3

_SYSCTL = "/usr/sbin/sysctl"


def chip() -> str:
    """The processor's name: ``Apple M2 Pro``; empty where the system does not tell."""
    if sys.platform == "darwin":
        command = [_SYSCTL, "-n", "machdep.cpu.brand_string"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()
    try:
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        return ""
    return found[1].strip() if found else ""


def system(_scene: Scene) -> Iterator[Finding]:
    """System, processor, memory."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 0
    total = total_memory()
    words = f"{_system()} on {chip() or platform.machine()}, {cores} cores, {format_size(total)} of memory."
    release = platform.mac_ver()[0]
    if sys.platform == "darwin" and platform.machine() != "arm64":
        yield Finding(
            "system",
            Level.PROBLEM,
            words,
            "MLX on macOS needs Apple Silicon, and a Python that is not translated by Rosetta.",
            "Use a native (arm64) Python.",
        )
    elif release and int(release.partition(".")[0]) < OLDEST_MACOS:
        yield Finding(
            "system", Level.PROBLEM, words, f"MLX needs macOS {OLDEST_MACOS} or newer.", "Update macOS."
        )
    elif total < LITTLE_MEMORY:
        yield Finding(
            "system",
            Level.WARNING,
            words,
            "Little is left for a model beside the system.",
            'Serve a small model, with model.quantization = "4bit".',
        )
    else:
        yield Finding("system", Level.OK, words)


def versions(scene: Scene) -> Iterator[Finding]:
    """pensieved, MLX and mlx-lm; and whether the daemon that runs is this pensieved."""
    found = {name: _installed(name) for name in ("mlx", "mlx-lm", "transformers", "huggingface_hub")}
    words = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    missing = [name for name, number in found.items() if not number]
    words = f"pensieved {__version__}, Python {platform.python_version()}, {words} in {sys.prefix}."
    if missing:
        yield Finding(
            "versions", Level.PROBLEM, words, f"Missing: {', '.join(missing)}.", "Install pensieved again."
        )
    else:
        yield Finding("versions", Level.OK, words)
    running = scene.answer.report.version if scene.answer else __version__
    if running != __version__:
        yield Finding(
            "versions",
            Level.WARNING,
            f"The daemon that runs is pensieved {running}.",
            f"This command is {__version__}.",
            f"`pensieved install{scene.agent.option}` puts this one in its place.",
        )


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = platform.system()
    return f"{name} (kernel {platform.release()})"


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
