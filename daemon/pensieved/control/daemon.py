"""The daemon as a whole: what is started, in which order, and how it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pensieved.control.limits import max_concurrent
from pensieved.control.reconcile import Reconciler
from pensieved.control.reload import Configuration
from pensieved.control.status import Phase, StatusBoard
from pensieved.control.succession import Succession
from pensieved.control.watch import FileWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.control.reload import ConfigReport
    from pensieved.control.serving import ServingModel
    from pensieved.engine.supervisor import EngineStats
    from pensieved.settings import Settings
    from pensieved.settings.origin import ConfigOrigin


class Daemon:
    """Settings, status, models and reconcile loop; the HTTP app serves from it.

    Args:
        settings: as read at the start.
        origin: where they were read; None: they stay as they are.
        check: raises what forbids settings that are valid by themselves.
    """

    def __init__(
        self,
        settings: Settings,
        origin: ConfigOrigin | None = None,
        check: Callable[[Settings], None] = lambda _: None,
    ) -> None:
        self.status = StatusBoard()
        self.started_at = time.time()
        self.configuration = Configuration(settings, origin, check)
        self._succession = Succession(self.status)
        self._reconciler = Reconciler(settings, self._succession)
        self._watch = FileWatch(lambda: origin.files(self.settings), self.reload) if origin else None
        self.configuration.subscribe(self._reconciler.want)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.configuration.current

    @property
    def max_concurrent(self) -> int:
        """Requests that decode together."""
        return max_concurrent(self.settings.server)

    @property
    def serving(self) -> ServingModel | None:
        """The resident model, or None while there is none."""
        return self._succession.serving

    def engine_stats(self) -> EngineStats | None:
        """The engine process at this moment."""
        return self._succession.engine_stats()

    def reload(self) -> ConfigReport:
        """Read the configuration again; says key by key what came of it."""
        return self.configuration.reload()

    @property
    def config_report(self) -> ConfigReport:
        """What the latest reading of the configuration brought."""
        return self.configuration.report

    @property
    def settled(self) -> bool:
        """Whether the settings in force have been acted upon, with whatever result."""
        return self._reconciler.settled

    def prestart(self) -> None:
        """Start the engine process, which imports MLX while this process does other things."""
        self._succession.prestart(self.settings)

    def start(self) -> None:
        """Begin to reconcile, and to watch the configuration."""
        self._reconciler.start()
        if self._watch is not None:
            self._watch.start()

    def drain(self) -> None:
        """Refuse new work from now on."""
        self.status.enter(Phase.DRAINING)

    def stop(self) -> None:
        """End everything; afterwards no process of ours is left."""
        if self._watch is not None:
            self._watch.stop()
        self._reconciler.stop()
