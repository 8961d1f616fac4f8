"""What a CPU's own ways are worth (`engine/worker/passes/cpu`): `python tests/bench/ways.py MODEL` prints the best of both.

In one process, on the same weights, with and without them in turn: waves of prompts and the steps that follow. Only rounds side
by side say something, since others use the machine too; run it with the BLAS that the engine has:

    LD_PRELOAD=CACHE/blas/libopenblas-….so OPENBLAS_NUM_THREADS=2 python tests/bench/ways.py MODEL
"""

import argparse
import json
import random
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import mlx.core as mx
from mlx_lm.models import activations
from mlx_lm.utils import load_model

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.passes.cpu import attention, linear
from pensieved.engine.worker.passes.cpu.powers import swiglu


def without(model):
    """MLX's ways instead."""
    stack = ExitStack()
    for module in model.modules():
        if getattr(module, "product", None) is not None:
            stack.enter_context(patch.object(module, "product", None))
    stack.enter_context(patch.object(linear, "MOST_ROWS", 0))
    stack.enter_context(patch.object(attention, "suits", lambda *_: False))
    for module in list(sys.modules.values()):
        if module is not None and getattr(module, "__dict__", {}).get("swiglu") is swiglu:
            stack.enter_context(patch.object(module, "swiglu", activations.swiglu))
    return stack


def wave(batch, prompts, tokens):
    """Seconds until all have a first token, and the median of those that the steps after it take."""
    for number, prompt in enumerate(prompts):
        batch.insert(Submit(number, prompt, tokens, ()))
    began = last = time.perf_counter()
    seen, first, steps = set(), 0.0, []
    while len(batch):
        seen |= {output.request for output in batch.step()}
        now = time.perf_counter()
        if first:
            steps.append(now - last)
        elif len(seen) == len(prompts):
            first = now - began
        last = now
    return first, statistics.median(steps)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--prompt", type=int, default=50)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    model, _ = load_model(arguments.model)
    batch = Batch(model, mx.default_device(), max_concurrent=max(arguments.rows), prefill_chunk=512)
    chance = random.Random(1)
    for rows in arguments.rows:
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            prompts = [tuple(chance.randrange(9, 999) for _ in range(arguments.prompt)) for _ in range(rows)]
            with without(model):
                theirs.append(wave(batch, prompts, arguments.tokens))
            ours.append(wave(batch, prompts, arguments.tokens))
        best = [tuple(map(min, zip(*side, strict=True))) for side in (theirs, ours)]
        names = ("first_tokens_s", "step_s")
        shown = {name: [round(side[at], 4) for side in best] for at, name in enumerate(names)}
        print(json.dumps({"rows": rows, "best without, with": shown}), flush=True)


if __name__ == "__main__":
    main()
