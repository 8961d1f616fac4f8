"""What the supervisor tells about its engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pensieved.engine.protocol import MemoryStats, PromptCacheStats, SpeculationStats


class EngineState(StrEnum):
    """Where the engine stands."""

    STARTING = "starting"  # the process imports its libraries; it waits for a model
    LOADING = "loading"  # weights into memory
    WARMING = "warming"  # compiling shapes; requests are answered in between as soon as it is loaded
    READY = "ready"
    RESTARTING = "restarting"  # died; the next one is on its way, requests wait
    ASLEEP = "asleep"  # nobody asked for long, so it left memory; the next request brings it back
    FAILED = "failed"  # given up; `load` tries again
    STOPPED = "stopped"  # by us; final


@dataclass(frozen=True)
class LoadedModel:
    """What loading gave. `device` as the engine reports it, sizes in bytes, times in seconds; `cuts` as in `Loaded`."""

    device: str
    weight_bytes: int
    load_seconds: float
    cuts: bool = True


@dataclass(frozen=True)
class EngineStats:
    """A moment of the engine. Memory in bytes as MLX counts it; `running` and `resumed` in requests."""

    state: EngineState
    pid: int | None
    running: int
    active_memory: int
    cache_memory: int
    restarts: int
    resumed: int
    prompt_cache: PromptCacheStats = field(default_factory=PromptCacheStats)
    memory: MemoryStats = field(default_factory=MemoryStats)
    speculation: SpeculationStats = field(default_factory=SpeculationStats)
