"""The load generator: closed-loop streams over loopback, one connection a request.

Closed loop: a stream asks its next question when the last answer has ended, so `concurrency` streams are always
under way until the questions run out. What the generator itself costs is measured with every loop and stands in the
result (`client_cpu`): it shares the machine with the servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.dialects import DIALECTS, Answer, Dialect, Request
from bench.figures import rounded, spread
from bench.prompts import story
from bench.wire import EventReader, ResponseReader, WireError, get, post

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATIENCE = 1800.0
"""Seconds for one answer: a reference BLAS needs minutes for what takes others seconds."""
_PIECE = 1 << 16


@dataclass(frozen=True)
class Target:
    """Where to ask, and how the server wants its model called."""

    port: int
    model: str = "default_model"
    dialect: Dialect = DIALECTS["openai"]


async def ask(target: Target, request: Request, on_text: Callable[[str], object] | None = None) -> Answer:
    """Ask and read to the end. Never raises for what the server does: the answer says what went wrong."""
    body = json.dumps(target.dialect.body(request, target.model)).encode()
    message, answer, started = post(target.dialect.path, target.port, body), Answer(), time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            await _converse(target, message, answer, started, on_text or (lambda _text: None))
    except TimeoutError:
        answer.error = f"no end after {PATIENCE:.0f} s"
    except (OSError, WireError, ValueError, KeyError, TypeError) as error:
        answer.error = answer.error or f"{type(error).__name__}: {error}"
    answer.seconds = time.perf_counter() - started
    return answer


async def _converse(
    target: Target, message: bytes, answer: Answer, started: float, on_text: Callable[[str], object]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(message)
        response, events, refused = ResponseReader(), EventReader(), b""
        while not response.done:
            data = await reader.read(_PIECE)
            now = time.perf_counter() - started
            body = response.feed(data)
            if response.status not in {0, 200}:
                refused += body
            else:
                for event in events.feed(body):
                    if target.dialect.read(event, answer, now):
                        on_text(answer.text[-1])
            if not data:
                response.close()
        if response.status != 200:
            answer.error = f"status {response.status}: {refused.decode(errors='replace')[:200]}"
    finally:
        writer.close()


async def fetch(port: int, path: str) -> int:
    """The status of a GET. Raises OSError or WireError where nobody answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(get(path, port))
        response = ResponseReader()
        while not response.status:
            data = await reader.read(_PIECE)
            response.feed(data)
            if not data:
                response.close()
        return response.status
    finally:
        writer.close()


async def closed_loop(
    target: Target,
    requests: Iterable[Request],
    concurrency: int,
    on_text: Callable[[str], object] | None = None,
) -> list[Answer]:
    """Answers in the order in which they ended. `requests` may be endless, until whoever waits here is cancelled."""
    questions, answers = iter(requests), []

    async def stream() -> None:
        for request in questions:
            answers.append(await ask(target, request, on_text))  # noqa: PERF401  the order of endings is wanted

    async with asyncio.TaskGroup() as streams:
        for _ in range(concurrency):
            streams.create_task(stream())
    return answers


def stories(seed: str, count: int, tokens: int, temperature: float = 0.0) -> list[Request]:
    """`count` different questions."""
    return [
        Request(messages=(story(f"{seed}/{place}"),), tokens=tokens, temperature=temperature)
        for place in range(count)
    ]


async def measured(target: Target, requests: list[Request], concurrency: int) -> dict[str, Any]:
    """One closed loop as figures."""
    worked, started = time.process_time(), time.perf_counter()
    answers = await closed_loop(target, requests, concurrency)
    wall = time.perf_counter() - started
    return {**summary(answers, wall), "client_cpu": rounded((time.process_time() - worked) / wall)}


def summary(answers: list[Answer], wall: float) -> dict[str, Any]:
    """Throughput, latencies and faults of what ran for `wall` seconds."""
    whole = [answer for answer in answers if not answer.fault()]
    faults = [answer.fault() for answer in answers if answer.fault()]
    produced = sum(answer.output_tokens for answer in whole)
    return {
        "requests": len(answers),
        "wall": rounded(wall),
        "output_tokens": produced,
        "prompt_tokens": sum(answer.prompt_tokens for answer in whole),
        "cached_tokens": sum(answer.cached_tokens for answer in whole),
        "tokens_per_second": rounded(produced / wall),
        "ttft": spread([answer.ttft for answer in whole if answer.ttft is not None]),
        "gap": spread([gap for answer in whole for gap in answer.gaps]),
        "faults": len(faults),
        **({"first_fault": faults[0]} if faults else {}),
    }
