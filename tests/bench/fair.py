"""Part `fair`: eight streams run while a ninth client brings a long prompt.

Gaps between tokens of the eight are told apart by when they ended: before the ninth came, until its first token, and
after. A prompt that is over within a few steps comes several times, anew: the 99th percentile of a hundred gaps is the worst
of them. `work_kept` asks whether the two kinds of work cost each other anything: the seconds that the prompt takes by
itself and the tokens of the eight take by themselves, over the seconds that both took together. 1 means nothing was
lost; the eight must of course get slower, since the prompt is work. What each takes by itself is seen before and after
that, since machines are noisy, and the eight are at different places of their answers all the while: each asks anew once
in every so many tokens. They sample: what a small model answers greedily repeats itself, which a server may foretell, and
several tokens in one event would count as one. `own_work_kept` is the same as `work_kept`, of all those times without what
the host took meanwhile (see `stolen`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.dialects import Answer, Request
from bench.figures import rounded, spread
from bench.load import PATIENCE, ask
from bench.process import ContestantError
from bench.prompts import long_text, story
from bench.stolen import MOST, Span, Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.plan import Plan
    from bench.result import Result
    from bench.servers import Server

STREAMS = 8
_NINTH_TOKENS = 8
_STREAM_TOKENS = 256
_SETTLED = 128  # tokens of each stream after which they count as running
_GAPS = 256  # of each stream, before the ninth comes and again after it: so that each asks anew once
_QUICK_GAPS = 8
_ENOUGH = 1000  # gaps of all streams while the ninth waits, so that a step more or less is not their 99th percentile
_MOST_VISITS = 12  # of the ninth
_LONG_ENOUGH = 30.0  # seconds of all visits after which it does not come again, however few gaps there were
_BETWEEN = 40  # tokens of each stream from one visit to the next: the eight are at other places of their answers then
_AGAIN_BELOW = 10.0  # seconds: a prompt this short is timed twice, since the first may compile its shapes
_ONCE_ABOVE = 120.0  # seconds: one this long is not timed again after the eight


@dataclass
class _Eight:
    """Closed-loop streams without an end, and when each of their tokens came."""

    server: Server
    seed: str
    times: list[list[float]] = field(default_factory=lambda: [[] for _ in range(STREAMS)])
    starts: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    async def stream(self, place: int) -> None:
        for number in itertools.count():
            question = story(f"{self.seed}/{place}/{number}")
            tokens = _STREAM_TOKENS if number else _STREAM_TOKENS * (place + 1) // STREAMS
            request = Request(messages=(question,), tokens=tokens, temperature=1.0)
            self.starts.append(time.perf_counter())
            answer = await ask(
                self.server.target(), request, lambda _text: self.times[place].append(time.perf_counter())
            )
            if answer.fault():
                raise ContestantError(f"a stream broke: {answer.fault()}")

    async def until_each_has(self, gaps: int, since: float) -> None:
        """Waits for that many more tokens of every stream."""
        deadline = time.perf_counter() + PATIENCE
        while min(sum(at > since for at in times) for times in self.times) <= gaps:
            if time.perf_counter() > deadline:
                raise ContestantError(f"eight streams did not have {gaps} tokens each in {PATIENCE:.0f} s")
            await asyncio.sleep(0.01)

    def gaps(self, begin: float, end: float) -> list[float]:
        """Those that ended in that time. Where a stream asked anew in between, it is no gap between tokens."""
        return [
            late - early
            for times in self.times
            for early, late in itertools.pairwise(times)
            if begin < late <= end and not any(early < start < late for start in self.starts)
        ]

    def count(self, begin: float, end: float) -> int:
        """Tokens in that time."""
        return sum(begin < at <= end for times in self.times for at in times)


async def measure_fair(server: Server, plan: Plan, result: Result, tokenizer: Any, context: int) -> None:
    """All of it, with prompts cut to what the model's context can hold."""
    length = min(plan.long_prompt, context - 128)
    alone = [await _alone(server, tokenizer, f"{plan.seed}/fair/alone", length)]
    # Made now: cutting one to its length takes tens of milliseconds, in which this process reads nobody's tokens.
    prompts = [_long(tokenizer, f"{plan.seed}/fair/ninth/{visit}", length) for visit in range(_MOST_VISITS)]
    eight = _Eight(server, f"{plan.seed}/fair/eight")
    gaps = (1, _QUICK_GAPS, 1) if plan.quick else (_SETTLED, _GAPS, _ENOUGH)
    streams = asyncio.gather(*(eight.stream(place) for place in range(STREAMS)))
    script = asyncio.create_task(_script(server, eight, gaps, prompts))
    try:
        await asyncio.wait([streams, script], return_when=asyncio.FIRST_COMPLETED)
        if streams.done():
            streams.result()  # they end only by raising
        figures = script.result()
    finally:
        script.cancel()
        streams.cancel()
        await asyncio.gather(streams, script, return_exceptions=True)
    if alone[0].seconds < _ONCE_ABOVE:
        alone.append(await _alone(server, tokenizer, f"{plan.seed}/fair/again", length))
    figures["alone"] = rounded(_mean(alone).seconds)
    figures["stolen"]["alone"] = rounded(_mean(alone).share)
    figures["work_kept"] = rounded(kept(figures))
    figures["own_work_kept"] = rounded(own_kept(figures))
    result.add("fair", server.contestant.name, 0, **figures)


async def _script(
    server: Server, eight: _Eight, gaps: tuple[int, int, int], prompts: Sequence[Request]
) -> dict[str, Any]:
    """Gaps are those of each stream until they count as running, and then before the ninth comes and after it was answered.

    The last number is that of all streams' gaps for which the ninth comes again. Times and tokens are those of a visit, on
    average.
    """
    settling, watched, enough = gaps
    await eight.until_each_has(settling, 0.0)
    settled, watch = time.perf_counter(), Watch()
    await eight.until_each_has(watched, settled)
    before = watch.span()
    visits: list[_Visit] = []
    during: list[float] = []
    for prompt in prompts:
        visits.append(visit := await _visit(server, prompt))
        during += eight.gaps(visit.came, visit.first)
        if len(during) >= enough or sum(each.span.seconds for each in visits) >= _LONG_ENOUGH:
            break
        await eight.until_each_has(_BETWEEN, visit.ended)
    came, ended, watch = visits[0].came, visits[-1].ended, Watch()
    await eight.until_each_has(watched, ended)
    end, after, together = time.perf_counter(), watch.span(), _mean([visit.span for visit in visits])
    return {
        "before": spread(eight.gaps(settled, came)),
        "during": spread(during),
        "after": spread(eight.gaps(ended, end)),
        "rate_before": rounded(eight.count(settled, came) / (came - settled)),
        "rate_after": rounded(eight.count(ended, end) / (end - ended)),
        "visits": len(visits),
        "tokens_during": sum(eight.count(visit.came, visit.first) for visit in visits) / len(visits),
        "together": rounded(together.seconds),
        "stolen": {
            name: rounded(span.share)
            for name, span in (("before", before), ("together", together), ("after", after))
        },
        "long_prompt": visits[0].answer.prompt_tokens,
        "long_prompt_cached": max(visit.answer.cached_tokens for visit in visits),
    }


@dataclass(frozen=True)
class _Visit:
    """When somebody with a long prompt came and was answered, and the time until there was a first token."""

    came: float
    ended: float
    span: Span
    answer: Answer

    @property
    def first(self) -> float:
        """When that was."""
        return self.came + self.span.seconds


async def _visit(server: Server, request: Request) -> _Visit:
    came, watch, span = time.perf_counter(), Watch(), None

    def on_text(_text: str) -> None:
        nonlocal span
        span = span or watch.span()

    answer = await ask(server.target(), request, on_text)
    if answer.fault():
        raise ContestantError(f"a long prompt was not answered: {answer.fault()}")
    return _Visit(came, time.perf_counter(), span or watch.span(), answer)


def kept(figures: dict[str, Any]) -> float:
    """Seconds that both kinds of work take by themselves over those they took together."""
    each = (1 / figures["rate_before"] + 1 / figures["rate_after"]) / 2
    separate = figures["alone"] + figures["tokens_during"] * each
    return float(separate / figures["together"])


def own_kept(figures: dict[str, Any]) -> float | None:
    """The same where the host takes nothing; None where it took too much to say."""
    if max(figures["stolen"].values()) > MOST:
        return None
    left = {name: 1 - share for name, share in figures["stolen"].items()}
    times = {name: figures[name] * left[name] for name in ("alone", "together")}
    rates = {f"rate_{name}": figures[f"rate_{name}"] / left[name] for name in ("before", "after")}
    return kept(figures | times | rates)


async def _alone(server: Server, tokenizer: Any, seed: str, length: int) -> Span:
    """Time to the first token of a prompt of that length while nobody else asks."""
    best = (await _visit(server, _long(tokenizer, f"{seed}/0", length))).span
    if best.seconds <= _AGAIN_BELOW:
        again = (await _visit(server, _long(tokenizer, f"{seed}/1", length))).span
        best = min(best, again, key=lambda span: span.seconds)
    return best


def _mean(spans: Sequence[Span]) -> Span:
    count = len(spans)
    return Span(sum(span.seconds for span in spans) / count, sum(span.stolen for span in spans) / count)


def _long(tokenizer: Any, seed: str, length: int) -> Request:
    return Request(messages=(long_text(tokenizer, seed, length),), tokens=_NINTH_TOKENS)
