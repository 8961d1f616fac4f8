"""Parts `levels` and `waves`: throughput at each concurrency, and the first wave after a start against later ones."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from bench.figures import rounded, spread
from bench.load import ask, stories
from bench.stolen import Watch

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.result import Result
    from bench.servers import Server

_OTHER_DIALECT_AT = 8  # concurrency; the largest, where that is not among the levels
_TRIES = 3  # of a level, until one is not disturbed by the machine's host
_WAVE_TOKENS = 8
_LATER_WAVES = 3
_WAVE_TEMPERATURE = 0.7  # as most clients have some: what samples is to be compiled before a first wave, too


async def measure_levels(server: Server, plan: Plan, result: Result, round_: int) -> None:
    """Each level after a wave of the same size that does not count: shapes are met, files are read."""
    name = server.contestant.name
    other_at = _OTHER_DIALECT_AT if _OTHER_DIALECT_AT in plan.levels else plan.levels[-1]
    for concurrency in plan.levels:
        if server.contestant.levels and concurrency not in server.contestant.levels:
            continue
        seed = f"{plan.seed}/{round_}/level/{concurrency}"
        size = {"concurrency": concurrency, "tokens": plan.tokens}
        await server.level(f"{seed}/warm", requests=concurrency, **size)
        per_stream = 1 if server.contestant.levels else plan.requests
        for dialect in server.contestant.dialects:
            if dialect != "openai" and concurrency != other_at:
                continue
            requests = concurrency * per_stream
            figures = await _calmest(server, f"{seed}/{dialect}", requests=requests, dialect=dialect, **size)
            memory = {"processes": server.processes()}
            result.add("level", name, round_, concurrency=concurrency, dialect=dialect, **figures, **memory)


async def _calmest(server: Server, seed: str, **size: Any) -> dict[str, Any]:
    """A level of which the host of the machine took little (see `stolen`); after some tries, the one of which it took least."""
    tries = []
    for place in range(_TRIES):
        watch = Watch()
        figures = await server.level(f"{seed}/{place}", **size)
        tries.append((span := watch.span(), {**figures, "stolen": rounded(span.share)}))
        if span.is_calm:
            break
    return min(tries, key=lambda each: each[0].share)[1]


async def measure_waves(server: Server, plan: Plan, result: Result, round_: int) -> None:
    """Right after a start, at each concurrency: a first wave and some more, each begun when the last has ended.

    A first wave of one stream is one request: several starts say what is the server's doing and what is the machine's.
    """
    for concurrency in plan.levels:
        waves = []
        for place in range(1 + _LATER_WAVES):
            seed = f"{plan.seed}/{round_}/wave/{concurrency}/{place}"
            waves.append(await _wave(server, seed, concurrency))
        first, later = waves[0], [ttft for wave in waves[1:] for ttft in wave]
        figures = {"first": spread(first), "later": spread(later)}
        result.add("wave", server.contestant.name, round_, concurrency=concurrency, **figures)


async def _wave(server: Server, seed: str, concurrency: int) -> list[float]:
    requests = stories(seed, concurrency, _WAVE_TOKENS, _WAVE_TEMPERATURE)
    answers = await asyncio.gather(*(ask(server.target(), request) for request in requests))
    return [answer.ttft for answer in answers if answer.ttft is not None]
