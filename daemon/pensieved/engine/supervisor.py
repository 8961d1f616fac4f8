"""The succession of engines: one thread that starts one, listens to it until it dies, and starts the next.

What is wanted (which model, loaded how) is state here and outlives every process, as the requests do in `client`.
So a new life needs no case of its own: it says hello, gets the same `Load`, and then the requests that live.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pensieved.engine.blame import OWN_DOING
from pensieved.engine.brake import Brake
from pensieved.engine.client import EngineClient
from pensieved.engine.idle import Idleness
from pensieved.engine.launch import EngineConfig, discard_kernels, environment
from pensieved.engine.memorylog import tell
from pensieved.engine.process import Ending, EngineProcess
from pensieved.engine.protocol import (
    FromEngine,
    Heartbeat,
    Hello,
    Load,
    Loaded,
    PromptCacheWish,
    Recalled,
    Refused,
    Step,
    Taken,
    Warm,
    Warming,
)
from pensieved.engine.state import EngineState, EngineStats, LoadedModel
from pensieved.errors import EngineError, PensievedError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Engine", "EngineConfig", "EngineState", "EngineStats", "LoadedModel"]

log = structlog.get_logger(__name__)


NO_PROMPT_CACHE = PromptCacheWish()
NO_HEARTBEAT = Heartbeat(running=0, active_memory=0, cache_memory=0)


@dataclass
class _Life:
    """What belongs to one process and ends with it."""

    process: EngineProcess
    hello: Hello | None = None
    load: Load | None = None  # what it was told to load
    loaded: bool = False
    warm: bool = False
    productive: bool = False
    heartbeat: Heartbeat = NO_HEARTBEAT

    def tell(self, load: Load) -> None:
        """Send it what to load."""
        self.load = load
        self.process.send(load)


class Engine:
    """A supervised engine process and the requests in it.

    Args:
        config: how to run it.
        on_state: called with each new state and its reason, one call at a time; it must not call `stop` or `load`.
    """

    def __init__(self, config: EngineConfig, on_state: Callable[[EngineState, str], None]) -> None:
        self.client = EngineClient(self._wake)
        self._idleness = Idleness(self.client)
        self._config = config
        self._on_state = on_state
        self._brake = Brake(config.max_restarts, config.restart_window)
        self._announcing = threading.Lock()
        self._state = EngineState.STARTING
        self._thread = threading.Thread(target=self._supervise, name="engine", daemon=True)
        self._changed = threading.Condition()  # guards what follows
        self._wanted: Load | None = None
        self._loaded: LoadedModel | None = None
        self._failure: PensievedError | None = None
        self._stopping = False
        self._life: _Life | None = None
        self._pause = 0.0  # before the next life
        self._asleep = False
        self._restarts = 0

    @property
    def config(self) -> EngineConfig:
        """How it is run."""
        return self._config

    @property
    def failed(self) -> bool:
        """Whether it was given up."""
        return self._state is EngineState.FAILED

    def configure(self, config: EngineConfig) -> None:
        """Other time limits and another brake, from now on; the process that runs stays as it was started."""
        self._config = config
        self._brake.adjust(config.max_restarts, config.restart_window)

    def start(self) -> None:
        """Spawn the process, so that it imports its libraries while the daemon does other things."""
        with self._changed:
            if self._thread.ident is None and not self._stopping:
                self._thread.start()

    def load(
        self,
        path: Path,
        *,
        max_concurrent: int,
        trust_remote_code: bool = False,
        prompt_cache: PromptCacheWish = NO_PROMPT_CACHE,
        safety_margin: int | None = None,
    ) -> LoadedModel:
        """Load a model and wait until it takes requests. One that was loaded before goes, and its requests fail.

        Args:
            path: folder with config.json and safetensors.
            max_concurrent: requests that decode together.
            trust_remote_code: allow the model's own Python code.
            prompt_cache: what to keep of prompts and answers.
            safety_margin: bytes of memory to be left to the rest of the machine; None leaves that to the engine.

        Raises:
            UnsupportedModelError: this model can never be loaded.
            EngineError: no engine came up, or it was stopped meanwhile.
        """
        wanted = Load(
            path=str(path.resolve()),
            max_concurrent=max_concurrent,
            prefill_chunk=self._config.prefill_chunk,
            device=self._config.device,
            trust_remote_code=trust_remote_code,
            prompt_cache=prompt_cache,
            safety_margin=safety_margin,
            speculation=self._config.speculation,
        )
        self.start()
        if self._wanted is not None:
            self.client.close("The model was replaced.")
        self.client.open()
        self._enter(EngineState.LOADING, "")
        with self._changed:
            self._wanted, self._loaded, self._failure, self._pause = wanted, None, None, 0.0
            self._asleep = False
            self._brake.release()
            if self._life is not None:
                if self._life.load is not None:
                    self._life.process.kill()
                elif self._life.hello is not None:
                    self._life.tell(wanted)
            self._changed.notify_all()
        return self._outcome(wanted)

    def wait_warm(self) -> None:
        """Wait until nothing is left to compile for a first wave of requests.

        Raises:
            PensievedError: the engine was given up.
            EngineError: it was stopped meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_warm or self._failure or self._stopping)
            if self._failure is not None:
                raise self._failure
            if not self._is_warm:
                raise EngineError("The engine was stopped while it compiled.")

    def stop(self, timeout: float) -> None:
        """End the process, by force after `timeout` seconds; all requests fail. Final."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._life is not None:
                self._life.process.finish()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            with self._changed:
                if self._life is not None:
                    self._life.process.kill()
            self._thread.join()
        self.client.close("The engine was stopped.")
        self._enter(EngineState.STOPPED, "")

    @property
    def stats(self) -> EngineStats:
        """How it is."""
        life = self._life
        heartbeat = life.heartbeat if life is not None else NO_HEARTBEAT
        return EngineStats(
            state=self._state,
            pid=life.process.pid if life is not None else None,
            running=self.client.live,
            active_memory=heartbeat.active_memory,
            cache_memory=heartbeat.cache_memory,
            restarts=self._restarts,
            resumed=self.client.resumed,
            prompt_cache=heartbeat.prompt_cache,
            memory=heartbeat.memory,
            speculation=heartbeat.speculation,
        )

    def _outcome(self, wanted: Load) -> LoadedModel:
        """Wait for what comes of loading `wanted`."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._loaded
                    or self._failure
                    or self._stopping
                    or self._wanted is not wanted
                    or not self._thread.is_alive()
                )
            )
            if self._failure is not None:
                raise self._failure
            if self._loaded is None or self._wanted is not wanted:
                raise EngineError("The engine was stopped or given another model while it loaded this one.")
            return self._loaded

    @property
    def _is_warm(self) -> bool:
        return self._life is not None and self._life.warm

    def _wake(self) -> None:
        """Somebody asks while there is no engine."""
        with self._changed:
            self._changed.notify_all()

    def _enter(self, state: EngineState, reason: str) -> None:
        with self._announcing:
            if state is not self._state or reason:
                self._state = state
                self._on_state(state, reason)

    # --- the supervising thread ----------------------------------------------------------------------------

    def _supervise(self) -> None:
        try:
            while self._due():
                self._live()
        except Exception as error:  # the daemon must not look healthy without its supervisor
            log.exception("engine.supervisor_failed")
            self._give_up(EngineError(f"The engine's supervisor failed: {error!r}."))

    def _due(self) -> bool:
        """Wait for the time of the next life; False if there is none to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._pause, self._pause)
            self._changed.wait_for(lambda: self._stopping or self._failure is None)
            if not self._asleep or self._stopping:
                return not self._stopping
        return self._sleep()

    def _sleep(self) -> bool:
        """Be without a process until somebody asks; False if it is stopped instead."""
        self._enter(EngineState.ASLEEP, "")
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self.client.live or not self._asleep)
            self._asleep = False
            stopping = self._stopping
        if not stopping:
            self._enter(EngineState.STARTING, "")
        return not stopping

    def _live(self) -> None:
        """One life, from spawn to burial, and what follows from its end."""
        try:
            life = _Life(EngineProcess(self._config.command, environment(self._config)))
        except OSError as error:
            self._restart(f"the engine cannot be started: {error}", productive=False)
            return
        with self._changed:
            self._life = life
            if self._stopping:
                life.process.kill()
        try:
            ending = life.process.pump(partial(self._hear, life), partial(self._patience, life))
        finally:
            with self._changed:
                self._life = None
        self.client.bereave(0.0 if ending.asked else ending.weight, ending.reason)
        if not ending.asked:
            self._mourn(life, ending)

    def _mourn(self, life: _Life, ending: Ending) -> None:
        log.warning(
            "engine.died", reason=ending.reason, code=ending.returncode, output="\n".join(ending.tail)
        )
        if ending.fault is not None:
            discard_kernels(self._config)
        if ending.fault is not None and ending.fault.permanent:
            self._give_up(UnsupportedModelError(ending.fault.message))
        else:
            self._restart(ending.reason, productive=life.productive, weight=ending.weight)

    def _restart(self, reason: str, *, productive: bool, weight: float = OWN_DOING) -> None:
        pause = self._brake.died(productive=productive, weight=weight)
        if pause is None:
            what = "The engine died again and again and produced nothing"
            self._give_up(EngineError(f"{what}; the last time: {reason}.", hint="The log has its output."))
            return
        with self._changed:
            self._pause = pause
            self._restarts += 1
        self._enter(EngineState.RESTARTING, reason)

    def _give_up(self, failure: PensievedError) -> None:
        """Tell everybody. Who waits for `load` comes last: it may load again at once, and that must not be undone here."""
        self.client.close(str(failure))
        self._enter(EngineState.FAILED, str(failure))
        with self._changed:
            self._failure, self._loaded = failure, None
            self._changed.notify_all()

    def _patience(self, life: _Life) -> float:
        return self._config.hang_timeout if life.warm else self._config.load_timeout

    def _hear(self, life: _Life, frame: FromEngine) -> None:
        """A frame of the living engine."""
        match frame:
            case Step():
                life.productive = True
                self.client.dispatch(frame)
            case Heartbeat():
                tell(life.heartbeat.memory, frame.memory)
                life.heartbeat = frame
                self._doze(life)
            case Taken():
                self.client.acknowledge(frame)
            case Recalled():
                self.client.recall(frame)
            case Refused():
                self.client.refuse(frame)
            case Hello():
                self._greet(life, frame)
            case Warming():
                self._progress(EngineState.WARMING)
            case Loaded():
                self._take_up(life, frame)
            case Warm():
                self._ready(life, frame)

    def _doze(self, life: _Life) -> None:
        """Let the engine leave memory when nobody has asked it for long enough."""
        patience = self._config.idle_unload
        if not patience or not life.warm or self._idleness.look() < patience:
            return
        with self._changed:
            if life.load is self._wanted:  # else it is being replaced
                self._asleep = True
                life.process.finish()

    def _greet(self, life: _Life, hello: Hello) -> None:
        log.info("engine.started", pid=hello.pid, mlx=hello.mlx, mlx_lm=hello.mlx_lm, device=hello.device)
        with self._changed:
            life.hello = hello
            if self._wanted is not None:
                life.tell(self._wanted)

    def _progress(self, state: EngineState) -> None:
        """Enter `state`, unless this is a restart, which is one state from death to readiness."""
        if self._state is not EngineState.RESTARTING:
            self._enter(state, "")

    def _take_up(self, life: _Life, frame: Loaded) -> None:
        """Hand the requests to an engine that has loaded."""
        device = life.hello.device if life.hello is not None else ""
        with self._changed:
            if life.load is not self._wanted:  # replaced while it loaded; this process is being killed
                return
            life.loaded = True
            self._idleness.begin()
            self._loaded = LoadedModel(device, frame.weight_bytes, frame.load_seconds, frame.cuts)
            self.client.attach(life.process.send)
            self._changed.notify_all()

    def _ready(self, life: _Life, frame: Warm) -> None:
        if life.load is not self._wanted:
            return
        log.info("engine.warm", seconds=round(frame.seconds, 3))
        self._enter(EngineState.READY, "")
        with self._changed:
            life.warm = True
            self._changed.notify_all()
