"""Part `soak`: eight streams for minutes; what each minute produced, and what the processes had at its end."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.dialects import Request
from bench.figures import rounded
from bench.load import ask
from bench.prompts import story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.contestants import Setup
    from bench.dialects import Answer
    from bench.plan import Plan
    from bench.result import Result
    from bench.servers import Server

STREAMS = 8
MINUTE = 60.0
"""Seconds that a measurement sums up."""
PROMPT_CACHE = "64MiB"
"""It is full within the first minute, so that what grows afterwards is something else."""


def with_full_cache(setup: Setup) -> Setup:
    """The same with so small a prompt cache."""
    config = setup.config.with_name("soak.toml")
    config.write_text(f'[prompt_cache]\nmemory = "{PROMPT_CACHE}"\n', encoding="utf-8")
    return replace(setup, config=config)


class _Streams:
    """Closed-loop streams, with a count of what they heard since anybody asked."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self._server, self._plan = server, plan
        self._numbers: Iterator[int] = itertools.count()
        self._events = self._answers = self._faults = 0
        self._tokens = self._texts = 0  # of whole answers, since the beginning
        self._since = time.perf_counter()

    async def run(self) -> None:
        """Until cancelled. A fault is counted, and the stream asks again after a second."""
        while True:
            seed = f"{self._plan.seed}/soak/{next(self._numbers)}"
            request = Request(messages=(story(seed),), tokens=self._plan.tokens)
            self._count(answer := await ask(self._server.target(), request, self._heard))
            if answer.fault():
                await asyncio.sleep(1)

    def _heard(self) -> None:
        self._events += 1

    def _count(self, answer: Answer) -> None:
        if answer.fault():
            self._faults += 1
            return
        self._answers += 1
        self._tokens += answer.output_tokens
        self._texts += len(answer.text)

    def take(self) -> dict[str, Any]:
        """What was heard since the last call.

        Tokens are events times the tokens that an event has had so far: counting an answer's tokens when it ends
        would make one minute's figure depend on how many answers happened to end in it.
        """
        now = time.perf_counter()
        each = self._tokens / self._texts if self._texts else 1.0
        figures = {
            "tokens_per_second": rounded(self._events * each / (now - self._since)),
            "answers": self._answers,
            "faults": self._faults,
        }
        self._events = self._answers = self._faults = 0
        self._since = now
        return figures


async def measure_soak(server: Server, plan: Plan, result: Result) -> None:
    """A measurement for each minute."""
    streams = _Streams(server, plan)
    running = asyncio.gather(*(streams.run() for _ in range(STREAMS)))
    begun = time.perf_counter()
    try:
        for minute in itertools.count(1):
            end = begun + min(minute * MINUTE, plan.soak * MINUTE)
            await asyncio.sleep(max(0.0, end - time.perf_counter()))
            result.add(
                "soak",
                server.contestant.name,
                0,
                minute=minute,
                **streams.take(),
                processes=server.processes(),
            )
            if minute >= plan.soak:
                break
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
