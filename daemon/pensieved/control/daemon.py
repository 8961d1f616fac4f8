"""The daemon as a whole: what is started, in which order, and how it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pensieved.control.limits import max_concurrent
from pensieved.control.reconcile import Reconciler
from pensieved.control.status import Phase, StatusBoard
from pensieved.engine.supervisor import Engine, EngineConfig

if TYPE_CHECKING:
    from pensieved.control.serving import ServingModel
    from pensieved.engine.supervisor import EngineState, EngineStats
    from pensieved.settings import Settings


class Daemon:
    """Settings, status, engine and reconcile loop; the HTTP app serves from it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.status = StatusBoard()
        self.started_at = time.time()
        self.max_concurrent = max_concurrent(settings.server)
        engine = settings.engine
        self.engine = Engine(
            EngineConfig(
                device=engine.device,
                prefill_chunk=engine.prefill_chunk,
                hang_timeout=engine.hang_timeout,
                load_timeout=engine.load_timeout,
                max_restarts=engine.max_restarts,
                restart_window=engine.restart_window,
                cache_dir=settings.cache.dir,
            ),
            self._on_engine_state,
        )
        self._reconciler = Reconciler(settings, self.engine, self.status, self.max_concurrent)

    @property
    def serving(self) -> ServingModel | None:
        """The resident model, or None while there is none."""
        return self._reconciler.serving

    def engine_stats(self) -> EngineStats:
        """The engine process at this moment."""
        return self.engine.stats

    def prestart(self) -> None:
        """Start the engine process, which imports MLX while this process does other things."""
        self.engine.start()

    def start(self) -> None:
        """Begin to reconcile."""
        self._reconciler.start()

    def drain(self) -> None:
        """Refuse new work from now on."""
        self.status.enter(Phase.DRAINING)

    def stop(self) -> None:
        """End everything; afterwards no process of ours is left."""
        self._reconciler.stop()
        self.engine.stop(timeout=5.0)

    def _on_engine_state(self, state: EngineState, detail: str) -> None:
        self._reconciler.on_engine_state(state, detail)
