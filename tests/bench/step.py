"""Our step against mlx-lm's BatchGenerator, without any server: `python tests/bench/step.py MODEL` prints ratios.

Both run in turn in the same process on the same weights, several rounds; a round's ratio is what counts, since other
load on the machine slows both. `decode` is the rate of rows that only decode; `waves` is closed-loop work, prompts
included: each request that ends is followed by the next. Every shape is met before it is timed. Before that, our side is
warmed up as the engine does it, and the first waves of requests show whether that was enough. `--fair N` measures what
eight streams notice of a prompt of N tokens, `--peak N` the memory that four requests with prompts of N tokens take at the most.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.loading import weight_bytes
from pensieved.engine.worker.memory.device import bound_reuse
from pensieved.engine.worker.warming import WarmUp


def prompt(seed, length, vocabulary):
    chance = random.Random(seed)
    return [chance.randrange(vocabulary) for _ in range(length)]


class Clock:
    """Time, and this process's CPU time: on a CPU that others use too, only the latter says much."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def rates(self, produced):
        """Tokens a second of either."""
        return produced / (time.perf_counter() - self.wall), produced / (time.process_time() - self.cpu)


class Theirs:
    """mlx-lm's generator."""

    def __init__(self, model, rows, chunk):
        del chunk
        self.generator = BatchGenerator(
            model, completion_batch_size=rows, prefill_batch_size=min(8, rows), stop_tokens=[]
        )

    def insert(self, number, ids, tokens):
        del number
        (uid,) = self.generator.insert([ids], max_tokens=[tokens])
        return uid

    def step(self):
        return [(each.uid, each.finish_reason is not None) for each in self.generator.next()[1]]

    def close(self):
        self.generator.close()


class Ours:
    """The engine's batch. Kept over rounds, as an engine keeps it."""

    kept = None

    def __init__(self, model, rows, chunk):
        if Ours.kept is None:
            started = time.perf_counter()
            device = mx.default_device()
            Ours.kept = Batch(model, device, max_concurrent=32, prefill_chunk=chunk)
            made = time.perf_counter()
            warm_up = WarmUp(Ours.kept, device)
            loaded = time.perf_counter()
            while not warm_up.warm:
                warm_up.go_on()
            print(
                f"# seconds: batch {made - started:.1f}, first answer {loaded - made:.1f},"
                f" warm after {time.perf_counter() - loaded:.1f}",
                flush=True,
            )
        self.batch = Ours.kept
        del rows

    def insert(self, number, ids, tokens):
        self.batch.insert(Submit(number, tuple(ids), tokens, ()))
        return number

    def step(self):
        outputs = self.batch.step()
        self.batch.take_refusals()
        return [(each.request, each.finish is not None) for each in outputs]

    def close(self):
        while len(self.batch):
            for request in list(self.batch._rows):
                self.batch.remove(request)
            self.batch.step()


def decode(make, arguments, rows, vocabulary):
    """Tokens a second of `rows` rows that only decode."""
    side = make(arguments.loaded, rows, arguments.chunk)
    for row in range(rows):
        side.insert(row, prompt(row, 32, vocabulary), 100000)
    warm = 0
    while warm < 4:
        warm += len(side.step()) >= rows
    clock, produced = Clock(), 0
    for _ in range(arguments.steps):
        produced += len(side.step())
    rates = clock.rates(produced)
    side.close()
    return rates


def waves(make, arguments, rows, vocabulary):
    """Tokens a second of closed-loop work."""
    side = make(arguments.loaded, rows, arguments.chunk)
    todo = [prompt(1000 + number, arguments.prompt + number % 8, vocabulary) for number in range(3 * rows)]
    live, produced, clock = set(), 0, Clock()
    while todo or live:
        while todo and len(live) < rows:
            live.add(side.insert(len(todo), todo.pop(), arguments.tokens))
        for number, ended in side.step():
            produced += 1
            if ended:
                live.discard(number)
    rates = clock.rates(produced)
    side.close()
    return rates


def first_wave(arguments, vocabulary):
    """Time to first token of as many requests as there are rows, four times: the first time as good as later?"""
    side = Ours(arguments.loaded, 0, arguments.chunk)
    for rows in arguments.rows:
        firsts = []
        for wave in range(4):
            started, seen, times = time.perf_counter(), set(), []
            for row in range(rows):
                ids = prompt(7000 + 100 * wave + row, arguments.prompt + row % 8, vocabulary)
                side.insert(row, ids, arguments.tokens)
            while len(side.batch):
                for number, _ in side.step():
                    if number not in seen:
                        seen.add(number)
                        times.append(time.perf_counter() - started)
            firsts.append(round(1e3 * max(times), 1))
        print(json.dumps({"rows": rows, "ttft_ms_max_by_wave": firsts}), flush=True)


def fair(arguments, vocabulary):
    """Gaps of eight streams without and with a ninth client's long prompt, and what all of it took."""
    side = Ours(arguments.loaded, 9, arguments.chunk)
    for row in range(8):
        side.insert(row, prompt(row, 32, vocabulary), 100000)
    gaps, last, inserted, begun = {"plain": [], "mixed": [], "after": []}, None, 0.0, None
    while len(gaps["after"]) < arguments.steps:
        seen = {number for number, _ in side.step()}
        now = time.perf_counter()
        if len(seen - {99}) < 8:
            continue
        if begun is None and len(gaps["plain"]) >= arguments.steps:
            side.insert(99, prompt(99, arguments.fair, vocabulary), 100000)
            inserted = begun = now
        if last is not None:
            state = "plain" if begun is None else "mixed" if inserted else "after"
            gaps[state].append(now - last)
        if 99 in seen and inserted:
            begun, inserted = now - inserted, 0.0
        last = now
    side.close()
    whole = sorted(gaps["plain"] + gaps["mixed"] + gaps["after"])
    quantile = {name: sorted(values)[int(0.99 * len(values))] for name, values in gaps.items() if values}
    print(
        json.dumps(
            {
                "gap_ms_p50": round(1e3 * statistics.median(whole), 2),
                "gap_ms_p99": round(1e3 * whole[int(0.99 * len(whole))], 2),
                "gap_ms_max": round(1e3 * whole[-1], 2),
                **{f"{name}_ms_p50": round(1e3 * statistics.median(each), 2) for name, each in gaps.items()},
                **{f"{name}_ms_p99": round(1e3 * value, 2) for name, value in quantile.items()},
                "prompt": arguments.fair,
                "ttft_s": round(begun, 2),
                "tokens_beside_it": 8 * len(gaps["mixed"]),
            }
        ),
        flush=True,
    )


def peak(arguments, vocabulary):
    """Memory of the weights, of four requests at the most while their prompts are computed, and while they all decode."""
    side, steps = Ours(arguments.loaded, 4, arguments.chunk), []
    held = mx.get_active_memory()
    for row in range(4):
        side.insert(row, prompt(row, arguments.peak, vocabulary), arguments.tokens)
    while len(side.batch):
        mx.reset_peak_memory()
        seen = len(side.step())
        steps.append((seen, mx.get_peak_memory()))
    figures = {
        "before": held,
        "at_most": max(most for _, most in steps),
        "decoding": statistics.median(most for seen, most in steps if seen == 4),
    }
    print(json.dumps({f"{name}_gb": round(value / 1e9, 2) for name, value in figures.items()}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="answer of a request in waves")
    parser.add_argument("--prompt", type=int, default=48, help="prompt of a request in waves")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--fair", type=int, default=0, help="tokens of a long prompt beside eight streams")
    parser.add_argument("--peak", type=int, default=0, help="tokens of four prompts whose memory is measured")
    arguments = parser.parse_args()
    arguments.loaded, _ = load_model(arguments.model)
    bound_reuse(weight_bytes(arguments.loaded))  # as the engine does
    vocabulary = arguments.loaded(mx.array([[0]])).shape[-1]
    first_wave(arguments, vocabulary)
    if arguments.fair:
        fair(arguments, vocabulary)
    if arguments.peak:
        peak(arguments, vocabulary)
    for rows in arguments.rows:
        for work in (decode, waves):
            for make in (Theirs, Ours):
                started = time.perf_counter()
                work(make, arguments, rows, vocabulary)
                first = time.perf_counter() - started
                print(f"# {work.__name__} {rows} {make.__name__}: first round {first:.1f} s", flush=True)
            rates = [
                (work(Theirs, arguments, rows, vocabulary), work(Ours, arguments, rows, vocabulary))
                for _ in range(arguments.rounds)
            ]
            theirs, ours = (statistics.median(each[side][0] for each in rates) for side in (0, 1))
            ratio, cpu = (
                statistics.median(own[kind] / other[kind] for other, own in rates) for kind in (0, 1)
            )
            print(
                json.dumps(
                    {
                        "work": work.__name__,
                        "rows": rows,
                        "mlx_lm": round(theirs, 1),
                        "ours": round(ours, 1),
                        "ratio": round(ratio, 3),
                        "cpu_ratio": round(cpu, 3),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
