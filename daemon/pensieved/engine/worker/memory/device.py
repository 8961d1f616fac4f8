"""What the device has to give: asked of the system, since whoever else uses the machine counts too.

On Metal and on a CPU model and system share one memory. A CUDA device has its own, and MLX asks the driver for it: by
NVML at every call or, where that library is missing, once and never again.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from pensieved import machine
from pensieved.engine.worker.passes.kernels.device import on_cuda
from pensieved.machine import Pressure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Facts = Mapping[str, str | int]

LEAST_REUSED, MOST_REUSED = 128 * 1024**2, 1024**3
SHARE_REUSED = 16
"""MLX may keep this part of the weights' size in freed buffers: a pass needs its scratch again and again, and that grows
with the model; caches of requests that ended are larger, of sizes that seldom come again, and others need them."""

AHEAD = 256 * 1024**2
"""Bytes of results that are needed no more and not free yet, while a GPU computes prompts, besides those of a CUDA graph. With
fewer, those who decode wait for their launches: the device has nothing to do meanwhile."""

SELDOM = 1.0
"""Seconds for which a CUDA driver's answer holds at the least."""
SHARE_ASKING = 0.001
"""Of the time, that asking it may take."""


@dataclass(frozen=True)
class Reading:
    """A moment: bytes that could be taken, MLX's own freed buffers not counted, and what the system says of it."""

    available: int
    pressure: Pressure = Pressure.NORMAL


class Device(Protocol):
    """The memory that models and requests lie in."""

    @property
    def total(self) -> int:
        """Bytes that it has for us at the most."""

    def read(self) -> Reading:
        """How it is now."""


class Host:
    """Memory shared with the system.

    Args:
        most: bytes that may be in use at once, where the device says so (Metal's working set).
        told: whether the system says itself when its memory is short; else what it has available decides.
    """

    def __init__(self, most: int | None = None, *, told: bool | None = None) -> None:
        self._most = most
        self._told = machine.tells_pressure() if told is None else told
        self.total = min(machine.total_memory(), most or machine.total_memory())

    def read(self) -> Reading:
        """See `Device`."""
        available = self.total - in_use() if self._told else machine.available_memory()
        if self._most is not None:
            available = min(available, self._most - in_use())
        return Reading(max(0, available), machine.pressure())


class Cuda:
    """A CUDA device's own memory.

    The driver takes tens of milliseconds to say how much is free, which nobody should wait for at each request. It is asked so
    seldom that this takes next to none of the time; in between, what MLX took or gave back counts, which MLX knows itself.

    Args:
        facts: asks MLX for the device's facts.
        used: bytes that MLX holds.
        clock: monotonic seconds.
    """

    def __init__(
        self, facts: Callable[[], Facts], used: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._facts = facts
        self._used = used
        self._clock = clock
        self.total = int(facts()["total_memory"])
        self._free, self._used_then, self._next = 0, 0, 0.0
        self._ask()
        self._first, self._at_first = self._free, self._used_then

    def read(self) -> Reading:
        """See `Device`. A number that has stayed while we took memory is the old one."""
        if self._clock() >= self._next:
            self._ask()
            if self._free == self._first:
                self._used_then = self._at_first
        free = self._free - (self._used() - self._used_then)
        return Reading(max(0, min(free, self.total)))

    def _ask(self) -> None:
        asked = self._clock()
        self._free = int(self._facts()["free_memory"])
        self._used_then = self._used()
        answered = self._clock()
        self._next = answered + max(SELDOM, (answered - asked) / SHARE_ASKING)


def in_use() -> int:
    """Bytes that MLX holds, freed buffers included."""
    return mx.get_active_memory() + mx.get_cache_memory()


def device_memory(device: mx.Device) -> Device:
    """The memory of `device`."""
    if device.type == mx.DeviceType.cpu:
        return Host()
    facts = mx.device_info(device)
    if "free_memory" in facts:
        return Cuda(lambda: mx.device_info(device), in_use)
    return Host(int(facts.get("max_recommended_working_set_size") or 0) or None)


@contextmanager
def little_ahead(layers: Sequence[Sequence[mx.array]], *, closely: bool = False) -> Iterator[None]:
    """On CUDA, these are launched in here only a little ahead of what the device has computed.

    MLX frees what a pass needs no more when the device has come by, and launches a whole pass before that: of a model whose
    weights are unpacked for long chunks, all of them would be in memory at once. Beyond the limit it launches a graph only when
    the one before has run.

    Args:
        layers: what a pass results in, not evaluated yet.
        closely: nothing at all is held besides that and a graph's own.
    """
    if not on_cuda():
        yield
        return
    wanted = sum(array.nbytes for layer in layers for array in layer)
    before = mx.set_memory_limit(mx.get_active_memory() + wanted + (0 if closely else AHEAD))
    try:
        yield
    finally:
        mx.set_memory_limit(before)


def give_back() -> None:
    """What MLX and the C library keep of freed memory goes back to the system."""
    mx.clear_cache()
    machine.give_back()


def bound_reuse(weights: int) -> None:
    """Bound what MLX keeps in freed buffers, beside weights of so many bytes; a lower bound of its own stays."""
    limit = max(LEAST_REUSED, min(MOST_REUSED, weights // SHARE_REUSED))
    before = mx.set_cache_limit(limit)
    if before < limit:
        mx.set_cache_limit(before)
