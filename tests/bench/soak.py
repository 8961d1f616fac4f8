"""Part `soak`: eight streams for minutes; what each minute produced, and what the processes had meanwhile.

A machine that others use as well wanders by more within half an hour than a server should. So where the ceiling takes part, the
streams rest after each minute while it does the same work, on the machine as it is then.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.dialects import Request
from bench.figures import rounded
from bench.load import ask
from bench.prompts import story
from bench.stolen import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.contestants import Setup
    from bench.dialects import Answer
    from bench.plan import Plan
    from bench.result import Result
    from bench.servers import Server

STREAMS = 8
MINUTE = 60.0
"""Seconds that a measurement sums up."""
LOOKS = 12
"""In a minute. Memory moves within seconds, as prompts come and go: one look would be a lottery."""
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
        self._asking = asyncio.Condition()
        self._resting, self._open = False, 0  # whether nobody is to ask, and how many wait for an answer
        self._tokens = self._characters = 0  # of whole answers, since the beginning
        self._begin()

    async def run(self) -> None:
        """Until cancelled. A fault is counted, and the stream asks again after a second."""
        while True:
            async with self._asking:
                await self._asking.wait_for(lambda: not self._resting)
                self._open += 1
            answer = await self._ask()
            async with self._asking:
                self._open -= 1
                self._asking.notify_all()
            if answer.fault():
                await asyncio.sleep(1)

    async def rest(self) -> None:
        """Returns when all have their answers; no stream asks again before `go_on`."""
        async with self._asking:
            self._resting = True
            await self._asking.wait_for(lambda: not self._open)

    async def go_on(self) -> None:
        """All streams ask, and what they hear from now on counts."""
        async with self._asking:
            self._resting = False
            self._asking.notify_all()
        self._begin()

    async def _ask(self) -> Answer:
        seed = f"{self._plan.seed}/soak/{next(self._numbers)}"
        request = Request(messages=(story(seed),), tokens=self._plan.tokens)
        self._count(answer := await ask(self._server.target(), request, self._hear))
        return answer

    def _begin(self) -> None:
        self._heard = self._answers = self._faults = 0  # characters, and whole answers
        self._since = time.perf_counter()

    def _hear(self, text: str) -> None:
        self._heard += len(text)

    def _count(self, answer: Answer) -> None:
        if answer.fault():
            self._faults += 1
            return
        self._answers += 1
        self._tokens += answer.output_tokens
        self._characters += sum(map(len, answer.text))

    def take(self) -> dict[str, Any]:
        """What was heard since the last call.

        Tokens are characters times the tokens that a character has had so far: counting an answer's tokens when it
        ends would make one minute's figure depend on how many answers happened to end in it. Events would not do:
        where a speculated text was right, one carries several tokens.
        """
        now = time.perf_counter()
        each = self._tokens / self._characters if self._characters else 0.0
        figures = {
            "tokens_per_second": rounded(self._heard * each / (now - self._since)),
            "answers": self._answers,
            "faults": self._faults,
        }
        self._begin()
        return figures


async def measure_soak(server: Server, plan: Plan, result: Result, ceiling: Server | None = None) -> None:
    """A measurement for each minute; of the ceiling as well, if there is one."""
    streams = _Streams(server, plan)
    running = asyncio.gather(*(streams.run() for _ in range(STREAMS)))
    try:
        for minute in range(1, math.ceil(plan.soak) + 1):
            watch = Watch()
            looks = await _watched(server, MINUTE * min(1.0, plan.soak - minute + 1))
            figures = {**streams.take(), "stolen": rounded(watch.span().share)}
            if ceiling is not None:
                await streams.rest()
                figures["faults"] += streams.take()["faults"]  # of the answers that were under way
                figures["ceiling"] = await _rate(ceiling, plan)
                await streams.go_on()
            spent = [sum(process["cpu"] for process in looks[place]) for place in (0, -1)]
            result.add(
                "soak",
                server.contestant.name,
                0,
                minute=minute,
                **figures,
                cpu=rounded(spent[1] - spent[0]),
                processes=_typical(looks),
            )
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _rate(ceiling: Server, plan: Plan) -> float:
    """Tokens a second of one request for each stream: always the same ones, since it has no prompt cache."""
    figures = await ceiling.level(
        f"{plan.seed}/soak/ceiling", concurrency=STREAMS, requests=STREAMS, tokens=plan.tokens
    )
    return float(figures["tokens_per_second"])


async def _watched(server: Server, seconds: float) -> list[list[dict[str, Any]]]:
    """The server's processes, looked at from now on for so long."""
    begun = time.perf_counter()
    looks = [server.processes()]
    for look in range(1, LOOKS + 1):
        await asyncio.sleep(max(0.0, begun + seconds * look / LOOKS - time.perf_counter()))
        looks.append(server.processes())
    return looks


def _typical(looks: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The processes as they were at last, but with the median of their memory."""

    def memory(role: str) -> float:
        return statistics.median_low(
            sum(each["memory"] for each in look if each["role"] == role) for look in looks
        )

    return [{**each, "memory": memory(each["role"])} for each in looks[-1]]
