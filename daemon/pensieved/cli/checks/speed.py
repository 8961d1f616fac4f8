"""Whether MLX is as fast here as this machine allows.

Decoding is bounded by how fast weights come out of memory, so the yardstick is the memory's bandwidth: Apple states it
for each of its chips; elsewhere a core's memcpy, measured at the same moment, says what to expect.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from pensieved.cli.checks.finding import Finding, Level
from pensieved.cli.checks.system import chip
from pensieved.engine.gauge import measure
from pensieved.engine.launch import EngineConfig
from pensieved.errors import PensievedError
from pensieved.machine import available_memory
from pensieved.settings.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.cli.checks.scene import Scene
    from pensieved.engine.gauge import Figures

APPLE = {
    "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": 300, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": 410,
    "M5": 153,
}  # fmt: skip
"""Memory bandwidth in GB/s, from Apple's technical specifications; of a chip sold with two, the lower one."""

COPIED = 0.5
"""The least share of it that a copy on the GPU should reach; 0.7 to 0.9 are usual."""

DECODED = 0.35
"""The least share that the weights of a small model should be read with, launching kernels included."""

OF_MEMCPY = 0.2
"""The least share of one core's memcpy (read and written bytes) that a CPU should read weights with: 0.4 to 0.6 are
usual with a real BLAS, and 0.2 at best without."""

NEEDED = 2 * 1024**3
"""Free memory below which nothing is measured."""


def speed(scene: Scene) -> Iterator[Finding]:
    """A short decode, and the memory's bandwidth, in a process like the engine's."""
    free = available_memory()
    if free < NEEDED:
        yield Finding(
            "speed",
            Level.NOTE,
            f"Not measured: only {format_size(free)} of memory are free.",
            todo="`pensieved stop` and ask again, for figures.",
        )
        return
    try:
        figures = measure(EngineConfig(scene.settings.cache.dir, scene.settings.engine.device))
    except PensievedError as error:
        yield Finding(
            "speed",
            Level.PROBLEM,
            error.what,
            "The engine would not start either.",
            "Install pensieved again, or set engine.device.",
        )
        return
    yield judge(figures, chip(), disturbed=scene.answer is not None)
    yield from blas(figures)


def judge(figures: Figures, name: str, *, disturbed: bool = False) -> Finding:
    """What the figures mean on a chip of this name; `disturbed` means that a daemon runs beside the measurement."""
    words = (
        f"{figures.tokens_per_second:.1f} tokens/s from {format_size(figures.weight_bytes)} of weights on the "
        f"{figures.device}: {_giga(figures.decode_bandwidth)}"
    )
    nominal = (
        APPLE.get(name.removeprefix("Apple "))
        if figures.device == "gpu" and name.startswith("Apple ")
        else None
    )
    if nominal is not None:
        words += f"; its memory copies {_giga(figures.device_bandwidth)} of the {name}'s {nominal} GB/s."
        slow = (
            figures.device_bandwidth < COPIED * nominal * 1e9
            or figures.decode_bandwidth < DECODED * nominal * 1e9
        )
        todo = "Plug it in, switch Low Power Mode off, let it cool, and see in Activity Monitor what else uses the GPU."
    else:
        if figures.device == "gpu":
            words += f"; its memory copies {_giga(figures.device_bandwidth)}"
        words += f"; a core's memcpy {_giga(figures.host_bandwidth)}."
        slow = figures.decode_bandwidth < OF_MEMCPY * figures.host_bandwidth
        todo = "See what else uses the machine."
    if not slow:
        return Finding("speed", Level.OK, words)
    why = "That is well below what this memory gives."
    if disturbed:
        why += " A daemon runs here, and may have been answering meanwhile."
    return Finding("speed", Level.WARNING, words, why, todo)


def blas(figures: Figures) -> Iterator[Finding]:
    """On x86 Linux MLX's own BLAS is the reference one, which is for correctness and not for speed."""
    if figures.device != "cpu" or sys.platform != "linux" or platform.machine() != "x86_64":
        return
    rate = f"{figures.flops / 1e9:.0f} GFLOP/s in a matrix product"
    if figures.blas:
        yield Finding(
            "blas", Level.OK, f"OpenBLAS is in front of MLX's reference BLAS: {rate}.", figures.blas
        )
    else:
        yield Finding(
            "blas",
            Level.WARNING,
            f"The engine computes with MLX's reference BLAS: {rate}.",
            "OpenBLAS is ten times as fast and more; prompts take that much longer.",
            "Install the cpu extra: pip install 'pensieved[cpu]'.",
        )


def _giga(rate: float) -> str:
    return f"{rate / 1e9:.1f} GB/s"
