"""One loop that makes the world as the settings say: model prepared, loaded, serving.

Errors carry their retry policy by type: a temporary one is tried again after a backoff, a permanent one
waits for a change. Either way the daemon stays up and says so: launchd would only start the same failure again.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from pensieved.backoff import Backoff
from pensieved.control.serving import ServingModel
from pensieved.control.status import Phase, StatusBoard
from pensieved.engine.supervisor import EngineState
from pensieved.errors import PensievedError, TemporaryError
from pensieved.models.preparation import PreparedModel, PrepareRequest, find_prepared, prepare
from pensieved.models.source import parse_source

if TYPE_CHECKING:
    from pensieved.engine.supervisor import Engine
    from pensieved.models.progress import Progress
    from pensieved.settings import Settings

log = structlog.get_logger()

_ENGINE_PHASE = {
    EngineState.STARTING: Phase.LOADING,
    EngineState.LOADING: Phase.LOADING,
    EngineState.RESTARTING: Phase.LOADING,
    EngineState.WARMING: Phase.WARMING,
    EngineState.READY: Phase.READY,
}


class Reconciler:
    """Owns the reconcile thread and the model that is being served."""

    def __init__(self, settings: Settings, engine: Engine, board: StatusBoard, max_concurrent: int) -> None:
        self._settings = settings
        self._engine = engine
        self._board = board
        self._max_concurrent = max_concurrent
        self._serving: ServingModel | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    @property
    def serving(self) -> ServingModel | None:
        """The resident model, or None while there is none."""
        return self._serving

    def start(self) -> None:
        """Begin to reconcile, in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop reconciling; a preparation under way is ended and resumes at the next start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def on_engine_state(self, state: EngineState, detail: str) -> None:
        """What the engine's supervisor reports, on its thread."""
        if self._stop.is_set():
            return
        if state is EngineState.FAILED and self._serving is not None:
            self._board.enter(
                Phase.FAILED,
                error=detail,
                hint="The log says why the engine died; restart the daemon to retry.",
            )
        elif state is EngineState.READY and self._serving is None:
            return  # the first load: ready is said when the tokenizer is there too
        elif state in _ENGINE_PHASE:
            self._board.enter(_ENGINE_PHASE[state], detail=detail)

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                self._converge()
            except TemporaryError as error:
                self._pause(error, backoff)
            except PensievedError as error:
                self._fail(error, retry_at=None)
                return
            except Exception as error:  # the loop that keeps the daemon honest must outlive any bug
                log.exception("reconcile failed")
                problem = TemporaryError(f"Internal error: {error!r}.", hint="Please report it with the log.")
                self._pause(problem, backoff)
            else:
                return

    def _pause(self, error: TemporaryError, backoff: Backoff) -> None:
        delay = max(backoff.next(), error.retry_after or 0.0)
        self._fail(error, retry_at=time.time() + delay)
        self._stop.wait(delay)

    def _fail(self, error: PensievedError, retry_at: float | None) -> None:
        if self._stop.is_set():
            return
        log.error("cannot serve", reason=error.what, hint=error.hint, retried=retry_at is not None)
        self._board.enter(Phase.FAILED, error=error.what, hint=error.hint, retry_at=retry_at)

    def _converge(self) -> None:
        prepared = self._prepared()
        if self._stop.is_set():
            return
        self._board.enter(Phase.LOADING, detail=prepared.manifest.name)
        self._serving = self._resident(prepared)
        self._board.enter(Phase.READY)

    def _prepared(self) -> PreparedModel:
        model = self._settings.model
        request = PrepareRequest(
            source=parse_source(model.url, model.revision),
            quantization=model.quantization,
            device=self._settings.engine.device,
            cache_dir=self._settings.cache.dir,
            trust_remote_code=model.trust_remote_code,
            verify=self._settings.cache.verify,
        )
        found = find_prepared(request)
        return found if found is not None else prepare(request, self._on_progress, self._stop)

    def _on_progress(self, progress: Progress) -> None:
        self._board.enter(Phase(progress.stage.value), detail=progress.detail, progress=progress)

    def _resident(self, prepared: PreparedModel) -> ServingModel:
        from pensieved.chat.tokenizer import ChatTokenizer  # noqa: PLC0415  the port is up before this is imported

        manifest = prepared.manifest
        with ThreadPoolExecutor(1, "tokenizer") as pool:  # beside the weights, not after them
            text = pool.submit(ChatTokenizer.open, prepared.path, manifest.eos_token_ids, manifest.tokenizer)
            self._engine.load(
                prepared.path,
                max_concurrent=self._max_concurrent,
                trust_remote_code=self._settings.model.trust_remote_code,
            )
            return ServingModel(
                name=manifest.name,
                aliases=self._settings.model.aliases,
                context_length=min(
                    manifest.context_length, self._settings.model.context_length or manifest.context_length
                ),
                loaded_at=time.time(),
                manifest=manifest,
                lease=prepared.lease,
                text=text.result(),
                engine=self._engine.client,
            )
