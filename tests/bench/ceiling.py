"""The ceiling: the same closed-loop work on mlx-lm's BatchGenerator, in a process with no server around it.

`python -m bench.ceiling MODEL` loads the model, says so with a line of JSON, and then answers each line of JSON it
reads (`seed`, `concurrency`, `requests`, `tokens`) with the figures of that loop. Prompts are rendered and tokenized
before the clock starts: what a server needs for that is its own cost. Each request computes its whole prompt; a
server that keeps the prefix that all prompts share can pass the ceiling by that.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load

from bench.figures import rounded, spread
from bench.prompts import story

_PREFILL_TOGETHER = 8  # prompts; what mlx_lm.server has by default


@dataclass
class _Row:
    """A request under way."""

    inserted: float
    last: float | None = None


@dataclass
class _Loop:
    """One closed loop, and what it measured. Times in seconds."""

    generator: Any
    todo: deque[list[int]]
    concurrency: int
    tokens: int
    produced: int = 0
    live: dict[int, _Row] = field(default_factory=dict)
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def run(self) -> float:
        """Until every request has ended; the seconds it took."""
        started = time.perf_counter()
        while self.todo or self.live:
            while self.todo and len(self.live) < self.concurrency:
                (uid,) = self.generator.insert([self.todo.popleft()], max_tokens=[self.tokens])
                self.live[uid] = _Row(time.perf_counter())
            _, responses = self.generator.next()
            now = time.perf_counter()
            for response in responses:
                self._count(response, now)
        return time.perf_counter() - started

    def _count(self, response: Any, now: float) -> None:
        row = self.live[response.uid]
        if row.last is None:
            self.ttft.append(now - row.inserted)
        else:
            self.gaps.append(now - row.last)
        row.last = now
        self.produced += 1
        if response.finish_reason is not None:
            del self.live[response.uid]


class Ceiling:
    """A loaded model, and loops on it."""

    def __init__(self, model: str) -> None:
        self._model, self._tokenizer = load(model)
        self._stops = [[token] for token in self._tokenizer.eos_token_ids]

    def measure(self, *, seed: str, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
        """The figures that `load.summary` has for a server."""
        prompts = deque(self._prompt(f"{seed}/{place}") for place in range(requests))
        asked = sum(map(len, prompts))
        generator = BatchGenerator(
            self._model,
            completion_batch_size=concurrency,
            prefill_batch_size=min(_PREFILL_TOGETHER, concurrency),
            stop_tokens=self._stops,
        )
        try:
            loop = _Loop(generator, prompts, concurrency, tokens)
            wall = loop.run()
        finally:
            generator.close()
        return {
            "requests": requests,
            "wall": rounded(wall),
            "output_tokens": loop.produced,
            "prompt_tokens": asked,
            "cached_tokens": 0,
            "tokens_per_second": rounded(loop.produced / wall),
            "ttft": spread(loop.ttft),
            "gap": spread(loop.gaps),
            "faults": 0,
        }

    def _prompt(self, seed: str) -> list[int]:
        turns = [{"role": "user", "content": story(seed)}]
        return list(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True))


def main() -> None:
    """Load, then answer line by line until the input ends."""
    ceiling = Ceiling(sys.argv[1])
    _say({"loaded": True})
    for line in sys.stdin:
        _say(ceiling.measure(**json.loads(line)))


def _say(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
