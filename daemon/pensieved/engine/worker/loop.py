"""The engine's one loop: take what came in, run a step, send its tokens in one frame.

The order of a life: `Hello`, wait for `Load`, `Warming`, `Loaded`, then steps for ever. Whatever MLX raises after
loading means a lost engine (a Metal command buffer fails one call late, a CUDA context never recovers): say so and
exit; the supervisor starts a fresh process and the requests go on there.
"""

from __future__ import annotations

import os
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import mlx.core as mx

from pensieved.engine.protocol import (
    Cancel,
    Fault,
    Heartbeat,
    Hello,
    Load,
    Loaded,
    PromptCacheStats,
    Refused,
    Step,
    Submit,
    Taken,
    Warming,
)
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.grammar import Grammars
from pensieved.engine.worker.loading import UnloadableError, load_model, use_device, warm_up, weight_bytes
from pensieved.engine.worker.prompt_cache.build import prompt_cache
from pensieved.engine.worker.prompt_cache.forms import is_plain
from pensieved.engine.worker.refusal import RefusedRequestError

if TYPE_CHECKING:
    from pensieved.engine.worker.link import Link
    from pensieved.engine.worker.prompt_cache.keeper import PromptCache

HEARTBEAT = 1.0
"""Seconds between heartbeats."""


def run(link: Link) -> NoReturn:
    """Live on `link`; never returns, since the process ends with a fault here or with the link elsewhere."""
    try:
        link.send(Hello(os.getpid(), version("mlx"), version("mlx-lm"), mx.default_device().type.name))
        _serve(link, *_load(link, _await_load(link)))
    except Exception as error:  # noqa: BLE001  any exception is a lost engine; the supervisor decides
        traceback.print_exc()
        permanent = isinstance(error, UnloadableError)
        link.send(Fault(str(error) if permanent else f"{type(error).__name__}: {error}", permanent=permanent))
    os._exit(os.EX_SOFTWARE)


def _await_load(link: Link) -> Load:
    while True:
        frame = link.receive(HEARTBEAT)
        if isinstance(frame, Load):
            return frame
        link.send(Heartbeat(running=0, active_memory=0, cache_memory=0))


def _load(link: Link, load: Load) -> tuple[Batch, PromptCache | None]:
    started = time.perf_counter()
    device = use_device(load.device)
    model = load_model(load.path, trust_remote_code=load.trust_remote_code)
    loaded = time.perf_counter()
    link.send(Warming())
    weights = weight_bytes(model)
    cuts = is_plain(model)
    keeper = prompt_cache(load.prompt_cache, device, weights, cuts=cuts, report=link.send)
    batch = Batch(
        model,
        device,
        max_concurrent=load.max_concurrent,
        prefill_chunk=load.prefill_chunk,
        grammars=Grammars(Path(load.path)),
        keeper=keeper,
    )
    warm_up(batch, device, prefill_chunk=load.prefill_chunk)
    if load.speculation:
        batch.speculate()
    if keeper is not None:
        keeper.open()
    warm = time.perf_counter()
    link.send(Loaded(weights, loaded - started, warm - loaded, cuts=cuts))
    return batch, keeper


def _serve(link: Link, batch: Batch, keeper: PromptCache | None) -> NoReturn:
    beaten = 0.0
    while True:
        patience = 0.0 if len(batch) or batch.meet_more() else HEARTBEAT
        while (frame := link.receive(patience)) is not None:
            _apply(link, batch, frame)
            patience = 0.0
        outputs = batch.step() if len(batch) else ()
        if outputs:
            link.send(Step(outputs))
        for refused in batch.take_refusals():
            link.send(refused)
        now = time.monotonic()
        if not outputs or now - beaten >= HEARTBEAT:
            kept = keeper.stats if keeper is not None else PromptCacheStats()
            memory = mx.get_active_memory(), mx.get_cache_memory()
            link.send(Heartbeat(len(batch), *memory, kept, batch.speculation))
            beaten = now


def _apply(link: Link, batch: Batch, frame: Submit | Cancel | Load) -> None:
    match frame:
        case Submit():
            link.send(Taken(frame.request))
            try:
                batch.insert(frame)
            except RefusedRequestError as error:
                link.send(Refused(frame.request, str(error)))
        case Cancel():
            batch.remove(frame.request)
        case Load():
            raise RuntimeError("told to load a model twice")
