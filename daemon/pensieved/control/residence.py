"""A model in memory: which one is wanted in which engine, bringing it there, and taking it away again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from pensieved import machine
from pensieved.control.limits import max_concurrent, safety_margin
from pensieved.control.promptcache import prompt_cache_wish
from pensieved.control.serving import ServingModel
from pensieved.engine.supervisor import EngineConfig
from pensieved.settings.effect import EFFECTS, Effect, value_of

if TYPE_CHECKING:
    from pensieved.engine.supervisor import Engine
    from pensieved.models.preparation import PreparedModel
    from pensieved.settings import Settings

log = structlog.get_logger()

STOP_SECONDS = 5.0
"""For an engine to end by itself, before it is killed."""


@dataclass(frozen=True)
class Target:
    """What decides whether an engine is the wanted one: every key that swaps it; the others are changed beside it, live."""

    values: tuple[tuple[str, object], ...]

    @classmethod
    def of(cls, settings: Settings) -> Target:
        """What `settings` ask for; "auto" slots count as the number they come to."""
        values = {key: value_of(settings, key) for key, effect in EFFECTS.items() if effect is Effect.SWAP}
        values["server.max_concurrent"] = max_concurrent(settings.server)
        return cls(tuple(values.items()))


def engine_config(settings: Settings) -> EngineConfig:
    """How the engine process is run."""
    engine = settings.engine
    return EngineConfig(
        cache_dir=settings.cache.dir,
        device=engine.device,
        prefill_chunk=engine.prefill_chunk,
        speculation=engine.speculation == "auto",
        hang_timeout=engine.hang_timeout,
        load_timeout=engine.load_timeout,
        max_restarts=engine.max_restarts,
        restart_window=engine.restart_window,
        idle_unload=engine.idle_unload,
    )


class Resident:
    """A model that is in memory, or was and can be brought back.

    Args:
        engine: its engine, not yet told to load.
        prepared: what it loads; the lease on its folder is released by `end`.
        settings: in force.
    """

    def __init__(self, engine: Engine, prepared: PreparedModel, settings: Settings) -> None:
        self.engine = engine
        self.prepared = prepared
        self.settings = settings
        self.target = Target.of(settings)

    def load(self, *, warm: bool) -> ServingModel:
        """Bring weights and tokenizer into memory, side by side; returns what answers from them.

        Args:
            warm: wait until the engine has compiled what it will need, too. Without, it does so between requests.

        Raises:
            UnsupportedModelError: this model can never be loaded.
            EngineError: no engine came up.
        """
        from pensieved.chat.tokenizer import ChatTokenizer  # noqa: PLC0415  the port is up before this is imported

        manifest, path = self.prepared.manifest, self.prepared.path
        with ThreadPoolExecutor(1, "tokenizer") as pool:
            text = pool.submit(ChatTokenizer.open, path, manifest.eos_token_ids, manifest.tokenizer)
            loaded = self.engine.load(
                path,
                max_concurrent=max_concurrent(self.settings.server),
                trust_remote_code=self.settings.model.trust_remote_code,
                prompt_cache=prompt_cache_wish(self.settings, self.prepared),
                safety_margin=safety_margin(self.settings.memory),
            )
            tokenizer = text.result()
            machine.give_back()
            if warm:
                self.engine.wait_warm()
            return ServingModel(
                name=manifest.name,
                aliases=self.settings.model.aliases,
                context_length=_context_length(self.prepared, self.settings),
                loaded_at=time.time(),
                manifest=manifest,
                text=tokenizer,
                engine=self.engine.client,
                cuts=loaded.cuts,
            )

    def refreshed(self, serving: ServingModel, settings: Settings) -> ServingModel:
        """The same model under settings that ask for the same engine."""
        self.settings = settings
        self.engine.configure(engine_config(settings))
        return replace(
            serving, aliases=settings.model.aliases, context_length=_context_length(self.prepared, settings)
        )

    def end(self) -> None:
        """Stop the engine; what is still running there fails."""
        self.engine.stop(STOP_SECONDS)
        self.prepared.lease.release()


class Retirement:
    """Models that were replaced and still have answers to finish: each ends with its last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaving: dict[Resident, threading.Thread] = {}

    def __len__(self) -> int:
        return len(self._leaving)

    def add(self, resident: Resident, serving: ServingModel, patience: float) -> None:
        """Let `resident` go when nobody uses it any more, or after `patience` seconds."""
        serving.users.close()
        thread = threading.Thread(
            target=self._see_off, args=(resident, serving, patience), name="retire", daemon=True
        )
        with self._lock:
            self._leaving[resident] = thread
        thread.start()

    def end(self) -> None:
        """Stop all of them now."""
        with self._lock:
            leaving = dict(self._leaving)
        for resident, thread in leaving.items():
            resident.engine.stop(STOP_SECONDS)
            thread.join(STOP_SECONDS)

    def _see_off(self, resident: Resident, serving: ServingModel, patience: float) -> None:
        finished = serving.users.wait_gone(patience)
        resident.end()
        with self._lock:
            del self._leaving[resident]
        log.info("model.retired", model=serving.name, cut_answers=not finished)


def _context_length(prepared: PreparedModel, settings: Settings) -> int:
    own = prepared.manifest.context_length
    return min(own, settings.model.context_length or own)
