"""Whether there is memory for further requests, in bytes; what is let go of where there is not.

Three things compete for what is left: freed buffers that MLX keeps, the prompt cache, and requests. They go in that order:
the first two cost time to make again, and requests that run are never touched for others. Beneath it all lies
the margin, which belongs to the rest of the machine.

What requests will still take is what they are reserved, less what they hold already. That is not added up but measured: what MLX
has in use beyond what it had when nothing ran. So whatever a reservation did not foresee counts as soon as it is there.

Once closed, it opens a little above the margin, or requests would come and go around it. While nothing of ours runs
that would help nobody: then the margin alone counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from pensieved.engine.protocol import MemoryStats
from pensieved.machine import Pressure, margin_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.engine.worker.memory.device import Device, Reading

INTERVAL = 1.0
"""Seconds between two looks."""
ABOVE = 8
"""It opens at this part of the margin above it."""
LITTLE = 128
"""Freed buffers below this part of the margin are left alone: the next pass takes them again."""
NEARLY_OUT = 2
"""At this part of the margin, running requests are too many."""


class PromptCache(Protocol):
    """What the guard takes from."""

    @property
    def used(self) -> int:
        """Bytes of memory that it holds."""

    def bound(self, budget: int) -> None:
        """Hold no more than `budget` bytes from now on."""


class Guard:
    """Watches over one device's memory. Whoever uses it says what running requests are reserved, in bytes.

    Args:
        device: the memory.
        margin: bytes that are always left free; None leaves it to the machine.
        prompt_cache: what may be let go of, if there is one.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        device: Device,
        margin: int | None = None,
        prompt_cache: PromptCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.margin = margin_for(device.total) if margin is None else margin
        self.clock = clock
        self.closed = False
        self._device = device
        self._prompt_cache = prompt_cache
        self._idle_use = mx.get_active_memory()
        self._looked = float("-inf")
        self._available = 0
        self._sheds = 0
        self._shed_bytes = 0

    @property
    def most(self) -> int:
        """Bytes that requests could have if nobody else used the machine."""
        return max(0, self._device.total - self.margin - self._idle_use)

    @property
    def nearly_out(self) -> bool:
        """Whether even the margin is being used up."""
        return self._available < self.margin // NEARLY_OUT

    def stats(self, waiting: int, *, closed: bool) -> MemoryStats:
        """How things are, with `waiting` requests that wait for memory."""
        return MemoryStats(self._available, self.margin, closed, waiting, self._sheds, self._shed_bytes)

    @property
    def due(self) -> bool:
        """Whether the last look was a while ago."""
        return self.clock() - self._looked >= INTERVAL

    def look(self, reserved: int, *, busy: bool) -> None:
        """See how much there is, and act on it.

        Args:
            reserved: bytes that running requests may come to hold.
            busy: whether any run.
        """
        self._looked = self.clock()
        if not busy:
            self._idle_use = mx.get_active_memory() - self._kept
        reading = self._relieved(self._read())
        self._decide(reading, busy=busy)
        self._bound(0 if self._is_short(reading) else self._room(reading, reserved))

    def has_room(self, needed: int, reserved: int, *, busy: bool, shed: bool) -> bool:
        """Whether a request may begin for which `needed` bytes are reserved.

        With `shed` the prompt cache makes room, where it has enough for that: anything less would be given up in vain.
        """
        if self.closed and busy:
            return False
        reading = self._without_buffers(self._read())
        spare = self._room(reading, reserved) - needed
        if shed and -self._kept <= spare < 0:
            self._shed(-spare)
            spare = self._room(self._read(), reserved) - needed
        if spare < 0 or reading.pressure is Pressure.CRITICAL:
            return False
        self._bound(spare)
        return True

    @property
    def _kept(self) -> int:
        return self._prompt_cache.used if self._prompt_cache is not None else 0

    def _room(self, reading: Reading, reserved: int) -> int:
        """Bytes for further requests, when all that run have got what they are reserved."""
        held = mx.get_active_memory() - self._kept - self._idle_use
        return self._free(reading) - self.margin - max(0, reserved - max(0, held))

    def _read(self) -> Reading:
        reading = self._device.read()
        self._available = self._free(reading)
        return reading

    def _free(self, reading: Reading) -> int:
        """MLX gives its freed buffers to the next array that fits, and lets go of them for one that does not."""
        return reading.available + mx.get_cache_memory()

    def _is_short(self, reading: Reading) -> bool:
        return reading.available < self.margin or reading.pressure is not Pressure.NORMAL

    def _relieved(self, reading: Reading) -> Reading:
        """Let go of what can be made again, as much as it takes; how things are then."""
        reading = self._without_buffers(reading)
        if self._is_short(reading) and self._kept:
            calm = reading.pressure is Pressure.NORMAL
            self._shed(self.margin - reading.available if calm else self._kept)
            reading = self._read()
        return reading

    def _without_buffers(self, reading: Reading) -> Reading:
        """Have MLX give its freed buffers to the system, if that is short: it may have swapped them out already."""
        reusable = mx.get_cache_memory()
        if not self._is_short(reading) or reusable <= self.margin // LITTLE:
            return reading
        mx.clear_cache()
        self._count(reusable)
        return self._read()

    def _bound(self, room: int) -> None:
        """The prompt cache may have what nobody is reserved."""
        if self._prompt_cache is not None:
            self._prompt_cache.bound(self._kept + max(0, room))

    def _shed(self, wanted: int) -> None:
        """Have the prompt cache give back at least `wanted` bytes."""
        if self._prompt_cache is None:
            return
        before = self._kept
        self._prompt_cache.bound(max(0, before - wanted))
        mx.clear_cache()  # on a GPU it went there
        self._count(before - self._kept)

    def _count(self, size: int) -> None:
        self._sheds += 1
        self._shed_bytes += size

    def _decide(self, reading: Reading, *, busy: bool) -> None:
        """Open or closed. A system that merely warns gets no second request of ours; it may be doing that all day."""
        enough = self.margin + (self.margin // ABOVE if self.closed and busy else 0)
        strained = reading.pressure is Pressure.CRITICAL or (reading.pressure is Pressure.WARNING and busy)
        self.closed = strained or self._free(reading) < enough
