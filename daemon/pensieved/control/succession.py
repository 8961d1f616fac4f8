"""Which model answers, and how the next one takes over.

Where both fit into memory, the next one is loaded beside the one that answers, and takes over from one moment to the
next; answers that had begun are finished by the model they began with. Where they do not, no answer begins any more,
those under way finish, and the next one takes the place; if it cannot, the old one comes back.

Everything here runs on the reconcile thread, but for what an engine's supervisor reports (`_on_engine_state`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from pensieved.control.limits import fits_beside
from pensieved.control.residence import STOP_SECONDS, Resident, Retirement, Target, engine_config
from pensieved.control.status import Phase, StatusBoard
from pensieved.engine.supervisor import Engine, EngineState
from pensieved.errors import PensievedError
from pensieved.settings.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.control.serving import ServingModel
    from pensieved.engine.supervisor import EngineConfig, EngineStats
    from pensieved.models.preparation import PreparedModel
    from pensieved.models.progress import Progress
    from pensieved.settings import Settings
    from pensieved.settings.schema import MemorySettings

    OnState = Callable[[EngineState, str], None]
    MakeEngine = Callable[[EngineConfig, OnState], Engine]

log = structlog.get_logger()

_ENGINE_PHASE = {
    EngineState.STARTING: Phase.LOADING,
    EngineState.LOADING: Phase.LOADING,
    EngineState.RESTARTING: Phase.LOADING,
    EngineState.WARMING: Phase.WARMING,
}


@dataclass(frozen=True)
class Trouble:
    """Why the world is not as the settings say; `retry_at` in seconds since the epoch, None: waits for a change."""

    error: PensievedError
    retry_at: float | None


class Succession:
    """The model that answers, the one on its way in, and those on their way out.

    Args:
        board: where the phase is written.
        make_engine: gives an engine that is not started.
        fits: whether weights of so many bytes fit into memory beside what is there, under these settings.
    """

    def __init__(
        self,
        board: StatusBoard,
        make_engine: MakeEngine = Engine,
        fits: Callable[[int, MemorySettings], bool] = fits_beside,
    ) -> None:
        self._board = board
        self._make_engine = make_engine
        self._fits = fits
        self._retired = Retirement()
        self._trouble: Trouble | None = None
        self._early: Engine | None = None
        self._next: Resident | None = None
        self._resident: Resident | None = None
        self._serving: ServingModel | None = None
        self._past = (0, 0)  # restarts and resumed streams of engines that are no more
        self._ended = False
        self._settling = threading.Lock()  # what an engine does is read and written in one go

    @property
    def serving(self) -> ServingModel | None:
        """The model that answers, or None while there is none."""
        return self._serving

    @property
    def engine(self) -> Engine | None:
        """The engine of the model that answers, or else of the one that is about to."""
        chosen = self._resident or self._next
        return chosen.engine if chosen is not None else self._early

    def engine_stats(self) -> EngineStats | None:
        """That engine at this moment; restarts and resumed streams are those of all engines since the start."""
        engine = self.engine
        if engine is None:
            return None
        now = engine.stats
        past_restarts, past_resumed = self._past
        return replace(now, restarts=now.restarts + past_restarts, resumed=now.resumed + past_resumed)

    @property
    def retiring(self) -> int:
        """Models that were replaced and still have answers to finish."""
        return len(self._retired)

    def prestart(self, settings: Settings) -> None:
        """Start an engine process, which imports MLX while this process does other things."""
        self._early = self._new_engine(settings)
        self._early.start()

    def keep(self, settings: Settings) -> bool:
        """Whether the model that answers is the one that `settings` want; then they are in force."""
        resident, serving = self._resident, self._serving
        if resident is None or serving is None or resident.engine.failed:
            return False
        if resident.target != Target.of(settings):
            return False
        self._serving = resident.refreshed(serving, settings)
        return True

    def install(self, prepared: PreparedModel, settings: Settings) -> None:
        """Make `prepared` the model that answers.

        Raises:
            PensievedError: it cannot be; what answered before still does, or does again, if it can.
        """
        resident, serving = self._resident, self._serving
        if resident is None or serving is None or resident.engine.failed:
            self._begin(prepared, settings)
        elif self._fits(prepared.manifest.weight_bytes or 0, settings.memory):
            self._swap(resident, serving, prepared, settings)
        else:
            self._replace(resident, serving, prepared, settings)

    def say(self, model: str, phase: Phase, detail: str = "", progress: Progress | None = None) -> None:
        """Where the wanted model stands: beside the phase of the one that answers, if one does."""
        if self._serving is not None:
            self._board.announce(model, phase, detail=detail, progress=progress)
        else:
            self._board.enter(phase, detail=detail, progress=progress)

    def settle(self, trouble: Trouble | None) -> None:
        """Write what came of the latest attempt."""
        self._trouble = trouble
        self._board.withdraw()
        with self._settling:
            self._enter_settled()

    def end(self) -> None:
        """Stop all engines; what is still running fails. Called while the thread loads, it ends that too."""
        self._ended = True
        for engine in {self._early, *(each.engine for each in (self._next, self._resident) if each)}:
            if engine is not None:
                engine.stop(STOP_SECONDS)
        self._retired.end()

    def _enter_settled(self) -> None:
        """As the latest attempt left it. An engine that is not ready yet says so itself when it is."""
        trouble, engine = self._trouble, self.engine
        if trouble is None:
            state = engine.stats.state if engine is not None else EngineState.READY
            if state is EngineState.ASLEEP and self._resident is not None:
                self._follow(self._resident, state, "")
            elif state is not EngineState.FAILED:  # which has been told
                self._board.enter(_ENGINE_PHASE.get(state, Phase.READY))
            return
        self._board.enter(
            Phase.DEGRADED if self._serving else Phase.FAILED,
            error=trouble.error.what,
            hint=trouble.error.hint,
            retry_at=trouble.retry_at,
        )

    def _begin(self, prepared: PreparedModel, settings: Settings) -> Engine:
        """Load where nothing answers; requests that wait do so no longer than until it can."""
        if (broken := self._resident) is not None:
            self._resident = self._serving = None
            self._remember(broken)
            broken.end()
        self._board.enter(Phase.LOADING, detail=prepared.manifest.name)
        resident, serving = self._load(self._engine_for(settings), prepared, settings, warm=False)
        self._resident, self._serving = resident, serving
        return resident.engine

    def _swap(
        self, old: Resident, serving: ServingModel, prepared: PreparedModel, settings: Settings
    ) -> None:
        """Load beside the old model, then let the new one answer from one moment to the next."""
        log.info("model.loading_beside", model=prepared.manifest.name, serving=serving.name)
        resident, loaded = self._load(self._new_engine(settings), prepared, settings, warm=True)
        self._remember(old)
        self._resident, self._serving = resident, loaded
        self._retired.add(old, serving, settings.server.request_timeout)

    def _replace(
        self, old: Resident, serving: ServingModel, prepared: PreparedModel, settings: Settings
    ) -> None:
        """Let the old model's answers finish, then load in its place; it comes back where that fails."""
        log.info("model.replacing", model=prepared.manifest.name, serving=serving.name)
        self._board.enter(
            Phase.LOADING, detail=f"{prepared.manifest.name}, after {serving.name}'s last answers"
        )
        self._serving = None  # first: who is turned away below looks for the model that answers
        serving.users.close()
        serving.users.wait_gone(settings.server.drain_timeout)
        self._remember(old)
        self._resident = None
        old.engine.stop(STOP_SECONDS)
        try:
            self._begin(prepared, settings).wait_warm()
        except PensievedError as error:
            log.warning("model.rolling_back", model=serving.name, reason=error.what)
            self._begin(old.prepared, old.settings)
            raise
        old.prepared.lease.release()

    def _remember(self, leaving: Resident) -> None:
        """Count on from an engine that goes."""
        restarts, resumed = self._past
        stats = leaving.engine.stats
        self._past = (restarts + stats.restarts, resumed + stats.resumed)

    def _load(
        self, engine: Engine, prepared: PreparedModel, settings: Settings, *, warm: bool
    ) -> tuple[Resident, ServingModel]:
        self._next = resident = Resident(engine, prepared, settings)
        try:
            return resident, resident.load(warm=warm)
        except BaseException:
            resident.end()
            raise
        finally:
            self._next = None

    def _engine_for(self, settings: Settings) -> Engine:
        """The engine that was started early, if it is of use; else another one."""
        early, self._early = self._early, None
        if early is not None and early.config == engine_config(settings):
            return early
        if early is not None:
            early.stop(STOP_SECONDS)
        return self._new_engine(settings)

    def _new_engine(self, settings: Settings) -> Engine:
        def on_state(state: EngineState, detail: str) -> None:
            self._on_engine_state(engine, state, detail)

        engine = self._make_engine(engine_config(settings), on_state)
        if self._ended:
            engine.stop(0)  # it will not load
        return engine

    def _on_engine_state(self, engine: Engine, state: EngineState, detail: str) -> None:
        """What an engine's supervisor reports, on its thread."""
        resident, coming = self._resident, self._next
        if self._ended:
            return
        if coming is not None and coming.engine is engine:
            if state in _ENGINE_PHASE:
                self.say(coming.prepared.manifest.name, _ENGINE_PHASE[state], detail)
        elif resident is not None and resident.engine is engine:
            with self._settling:
                self._follow(resident, state, detail)

    def _follow(self, resident: Resident, state: EngineState, detail: str) -> None:
        """Write what the engine of the model that answers is doing."""
        if state is EngineState.FAILED:
            hint = "The log says why the engine died. Change the configuration, or run `pensieved reload` to retry."
            self._board.enter(Phase.FAILED, error=detail, hint=hint)
        elif state is EngineState.ASLEEP:
            idle = format_duration(resident.settings.engine.idle_unload)
            self._board.enter(Phase.IDLE, detail=f"nobody asked for {idle}; the next request brings it back")
        elif state is EngineState.READY:
            self._enter_settled()
        elif state in _ENGINE_PHASE:
            self._board.enter(_ENGINE_PHASE[state], detail=detail)
