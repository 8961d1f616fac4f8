"""What the HTTP front needs from the control plane, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pensieved.control.reload import ConfigReport
    from pensieved.control.serving import ServingModel
    from pensieved.control.status import StatusBoard
    from pensieved.engine.protocol import MemoryStats, PromptCacheStats, SpeculationStats
    from pensieved.settings.schema import Settings


class EngineStats(Protocol):
    """The engine process at this moment. Sizes in bytes."""

    @property
    def pid(self) -> int | None:
        """Its process, or None while there is none."""

    @property
    def restarts(self) -> int:
        """How often it was started again after dying."""

    @property
    def resumed(self) -> int:
        """How often a request was handed on after its engine had died."""

    @property
    def running(self) -> int:
        """Requests in its batch."""

    @property
    def active_memory(self) -> int:
        """What MLX has in use."""

    @property
    def cache_memory(self) -> int:
        """What MLX keeps for reuse."""

    @property
    def prompt_cache(self) -> PromptCacheStats:
        """What the prompt cache holds."""

    @property
    def memory(self) -> MemoryStats:
        """What its memory guard sees."""

    @property
    def speculation(self) -> SpeculationStats:
        """What it drafted."""


class Daemon(Protocol):
    """The control plane as seen from a request. While its phase is DRAINING, new work is refused."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def status(self) -> StatusBoard:
        """The phase, and a way to wait for another one."""

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""

    @property
    def serving(self) -> ServingModel | None:
        """The model that answers, or None while there is none."""

    def engine_stats(self) -> EngineStats | None:
        """The engine process, or None while there is none."""

    def reload(self) -> ConfigReport:
        """Read the configuration again; says what came of it."""

    @property
    def config_report(self) -> ConfigReport:
        """What the latest reading of the configuration brought."""

    @property
    def settled(self) -> bool:
        """Whether the settings in force have been acted upon, with whatever result."""
