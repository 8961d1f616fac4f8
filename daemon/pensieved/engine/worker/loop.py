"""The engine's one loop: take what came in, run a step, send its tokens in one frame.

The order of a life: `Hello`, wait for `Load`, `Warming`, `Loaded`, `Warm`, and from `Loaded` on steps for ever. Whatever MLX raises after
loading means a lost engine (a Metal command buffer fails one call late, a CUDA context never recovers): say so and
exit; the supervisor starts a fresh process and the requests go on there.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import mlx.core as mx
import mlx_lm

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
    Warm,
    Warming,
)
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.choosing.grammar import Grammars
from pensieved.engine.worker.loading import UnloadableError, load_model, use_device, weight_bytes
from pensieved.engine.worker.memory.device import bound_reuse, device_memory
from pensieved.engine.worker.memory.guard import Guard
from pensieved.engine.worker.memory.rest import Rest
from pensieved.engine.worker.prompt_cache.build import prompt_cache
from pensieved.engine.worker.prompt_cache.forms import is_plain
from pensieved.engine.worker.refusal import RefusedRequestError
from pensieved.engine.worker.warming import WarmUp

if TYPE_CHECKING:
    from pensieved.engine.worker.link import Link
    from pensieved.engine.worker.prompt_cache.keeper import PromptCache

HEARTBEAT = 1.0
"""Seconds between heartbeats."""


def run(link: Link) -> NoReturn:
    """Live on `link`; never returns, since the process ends with a fault here or with the link elsewhere."""
    try:
        # Their own word: importlib.metadata, which would know too, brings the email package along, megabytes of it.
        mlx_version: str = mx.__version__  # type: ignore[attr-defined]  # its stub lacks it
        link.send(Hello(os.getpid(), mlx_version, mlx_lm.__version__, mx.default_device().type.name))
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


def _load(link: Link, load: Load) -> tuple[Batch, PromptCache | None, WarmUp]:
    started = time.perf_counter()
    device = use_device(load.device)
    model = load_model(load.path, trust_remote_code=load.trust_remote_code)
    loaded = time.perf_counter()
    link.send(Warming())
    weights = weight_bytes(model)
    bound_reuse(weights)
    cuts = is_plain(model)
    keeper = prompt_cache(load.prompt_cache, device, weights, cuts=cuts, report=link.send)
    batch = Batch(
        model,
        device,
        max_concurrent=load.max_concurrent,
        prefill_chunk=load.prefill_chunk,
        grammars=Grammars(Path(load.path)),
        keeper=keeper,
        on_begin=lambda request: link.send(Taken(request)),
    )
    warm_up = WarmUp(batch, device)
    batch.guard(Guard(device_memory(device), load.safety_margin, keeper))
    if load.speculation:
        batch.speculate()
    link.send(Loaded(weights, loaded - started, cuts=cuts))
    return batch, keeper, warm_up


def _serve(link: Link, batch: Batch, keeper: PromptCache | None, warm_up: WarmUp) -> NoReturn:
    beaten = 0.0
    closed, busy = False, True
    rest = Rest()
    while True:
        patience = 0.0 if busy else HEARTBEAT
        while (frame := link.receive(patience)) is not None:
            _apply(link, batch, frame)
            patience = 0.0
        busy = _warm(link, batch, warm_up)
        batch.watch()
        outputs = batch.step() if len(batch) else ()
        if outputs:
            link.send(Step(outputs))
        for refused in batch.take_refusals():
            link.send(refused)
        now, memory = time.monotonic(), batch.memory
        if not outputs or now - beaten >= HEARTBEAT or memory.closed != closed:
            kept = keeper.stats if keeper is not None else PromptCacheStats()
            held = mx.get_active_memory(), mx.get_cache_memory()
            link.send(Heartbeat(len(batch), *held, kept, memory, batch.speculation))
            beaten, closed = now, memory.closed
        busy |= keeper is not None and keeper.write_on()
        rest.look(busy=busy)


def _warm(link: Link, batch: Batch, warm_up: WarmUp) -> bool:
    """Use a moment without requests to compile something; whether there is something to do."""
    was = warm_up.warm
    if busy := bool(len(batch)):
        warm_up.leave_off()
    elif not (warm_up.warm and batch.memory.closed):
        busy = warm_up.go_on()
    if warm_up.warm and not was:
        _settle_down()
        link.send(Warm(warm_up.seconds))
    return busy


def _settle_down() -> None:
    """What is there now stays: traces and layers by the hundred thousand, at which the garbage collector would look again and again.

    Whoever streams would wait for that, for tens of milliseconds every few seconds.
    """
    gc.collect()
    gc.freeze()


def _apply(link: Link, batch: Batch, frame: Submit | Cancel | Load) -> None:
    match frame:
        case Submit():
            if frame.grammar:  # compiled at once, by foreign code
                link.send(Taken(frame.request))
            try:
                batch.insert(frame)
            except RefusedRequestError as error:
                link.send(Refused(frame.request, str(error)))
        case Cancel():
            batch.remove(frame.request)
        case Load():
            raise RuntimeError("told to load a model twice")
