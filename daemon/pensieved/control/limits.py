"""What fits into this machine, where the settings leave it to the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.machine import available_memory, margin_for, total_memory

if TYPE_CHECKING:
    from pensieved.settings.schema import MemorySettings, ServerSettings

BYTES_PER_REQUEST = 512 * 1024**2
"""KV cache and scratch that one request is expected to need."""

RESERVED = 1024**3
"""Memory left to the rest of the machine."""

MOST = 32
"""Beyond this, a decode step gets longer faster than it gets wider."""

_BESIDE_WEIGHTS = 1.15
"""What an engine takes for each byte of weights before its first request."""


def max_concurrent(server: ServerSettings) -> int:
    """The number of slots: as set, else what fits into memory, from 2 to 32."""
    if server.max_concurrent != "auto":
        return server.max_concurrent
    free = total_memory() - RESERVED
    return max(2, min(MOST, free // BYTES_PER_REQUEST))


def safety_margin(memory: MemorySettings) -> int | None:
    """Bytes that the engine leaves free; None: as many as suit its device, which it knows."""
    return None if memory.safety_margin == "auto" else memory.safety_margin


def fits_beside(weight_bytes: int, memory: MemorySettings) -> bool:
    """Whether a model of this size, with one request, fits into the memory that is free now and leaves the margin so."""
    margin = safety_margin(memory)
    left = max(RESERVED, margin_for(total_memory()) if margin is None else margin)
    return available_memory() >= _BESIDE_WEIGHTS * weight_bytes + BYTES_PER_REQUEST + left
