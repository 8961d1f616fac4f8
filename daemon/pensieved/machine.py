"""How much memory this machine has for us, how much of it is free now, and giving back what is not needed.

"This machine" is what this process may use: in a container with a limit, that limit. On a Mac the GPU shares it.

Sources: cgroup v2 (memory.max, memory.current, memory.stat) and v1 (memory.limit_in_bytes, …); on macOS
kern.memorystatus_vm_pressure_level, which is 1 when all is well, 2 as a warning, 4 when processes are about to be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from enum import IntEnum
from pathlib import Path

import psutil

_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
_SHARE_LEFT = 16
"""The margin is this part of a device's memory: what an ordinary system and its programs come to want within a second or
two, and what a pass needs for its scratch."""
_LEAST_LEFT, _MOST_LEFT = 512 * 1024**2, 2 * 1024**3
_SHARE_OF_SMALL = 8
"""And never more than this part: in a small container half a gibibyte is a lot."""
_PRESSURE = b"kern.memorystatus_vm_pressure_level"


class Pressure(IntEnum):
    """What the system says of its memory."""

    NORMAL = 1
    WARNING = 2
    CRITICAL = 4


def total_memory() -> int:
    """Bytes that this process could have at the most."""
    limit = _limit()
    total = psutil.virtual_memory().total
    return total if limit is None else min(total, limit[0])


def margin_for(total: int) -> int:
    """Bytes to be left free on a device of `total`, where the settings leave it to the machine."""
    wanted = max(_LEAST_LEFT, min(_MOST_LEFT, total // _SHARE_LEFT))
    return min(wanted, total // _SHARE_OF_SMALL)


def available_memory() -> int:
    """Bytes that could be taken now without anything being swapped out or killed."""
    limit = _limit()
    available = psutil.virtual_memory().available
    return available if limit is None else max(0, min(available, limit[0] - limit[1]))


def tells_pressure() -> bool:
    """Whether the system says itself when memory is short.

    Where it does, that counts, not `available_memory`: macOS fills its memory on purpose, and has much that it would compress or
    drop for whoever asks.
    """
    return platform.system() == "Darwin"


def pressure() -> Pressure:
    """The system's own word; NORMAL where it says none."""
    if not tells_pressure():
        return Pressure.NORMAL
    level, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    if ctypes.CDLL(None).sysctlbyname(_PRESSURE, ctypes.byref(level), ctypes.byref(size), None, 0):
        return Pressure.NORMAL
    return Pressure(level.value) if level.value in {2, 4} else Pressure.NORMAL


def give_back() -> None:
    """Return memory that was freed but kept for the next who wants some: worth it after work of a kind that does not come again.

    glibc and macOS both keep such memory, as resident, for as long as the process lives.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    elif hasattr(library, "malloc_zone_pressure_relief"):
        library.malloc_zone_pressure_relief(None, ctypes.c_size_t(0))


def _limit() -> tuple[int, int] | None:
    """The container's limit and what is used of it, files that can be dropped excluded; None without a limit."""
    for folder, most, used, droppable in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such hierarchy, or "max"
            limit = int((folder / most).read_text())
            return limit, int((folder / used).read_text()) - _statistic(folder, droppable)
    return None


def _statistic(folder: Path, name: str) -> int:
    for line in (folder / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
