"""Parts `turns`, `prefix` and `restart`: what is not computed again, in a conversation, between users, after a restart.

What a server says it took from its cache stands beside the time to the first token, which does not depend on what
anybody says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.dialects import Answer, Request
from bench.figures import middle, rounded
from bench.load import ask, closed_loop
from bench.process import ContestantError
from bench.prompts import long_text, story
from bench.servers import running

if TYPE_CHECKING:
    from pathlib import Path

    from bench.contestants import Contestant, Setup
    from bench.plan import Plan
    from bench.result import Result
    from bench.servers import Server

_TURNS = 5
_TURN_TOKENS = 32
_USERS = 8
_USERS_AT_ONCE = 4
_SYSTEM_SHARE = 4  # the system prompt of a conversation is that part of the long prefix


async def measure_turns(server: Server, plan: Plan, result: Result, tokenizer: Any) -> None:
    """One conversation: each turn sends all that was said before."""
    seed = f"{plan.seed}/turns"
    system = long_text(tokenizer, f"{seed}/system", plan.prefix // _SYSTEM_SHARE)
    messages: tuple[str, ...] = ()
    for turn in range(_TURNS):
        messages = (*messages, story(f"{seed}/{turn}"))
        answer = await _whole(server, Request(messages=messages, tokens=_TURN_TOKENS, system=system))
        messages = (*messages, "".join(answer.text) or "…")
        result.add("turn", server.contestant.name, 0, turn=turn + 1, **_figures(answer))


async def measure_prefix(server: Server, plan: Plan, result: Result, tokenizer: Any) -> None:
    """Many users behind one long system prompt: the first, and then the others, four at a time."""
    seed = f"{plan.seed}/prefix"
    system = long_text(tokenizer, f"{seed}/system", plan.prefix)
    await _whole(server, _about(long_text(tokenizer, f"{seed}/other", plan.prefix), f"{seed}/warm"))
    first = await _whole(server, _about(system, f"{seed}/first"))
    others = await closed_loop(
        server.target(), [_about(system, f"{seed}/{user}") for user in range(_USERS)], _USERS_AT_ONCE
    )
    figures = [_figures(each) for each in others if _is_answer(each)]
    result.add(
        "prefix",
        server.contestant.name,
        0,
        first=_figures(first),
        others={
            key: middle(each[key] for each in figures) for key in ("ttft", "prompt_tokens", "cached_tokens")
        },
        faults=len(others) - len(figures),
    )


async def measure_restart(
    contestant: Contestant,
    setup: Setup,
    plan: Plan,
    result: Result,
    *,
    tokenizer: Any,
    log: Path,
    round_: int,
) -> None:
    """A long prefix that is new, seen, and seen before a restart; the question after it is always another."""
    seed = f"{plan.seed}/{round_}/restart"
    prefix = long_text(tokenizer, f"{seed}/prefix", min(plan.prefix, setup.context // 2))
    async with running(contestant, setup, log, f"{seed}/1") as server:
        await _whole(server, _about(long_text(tokenizer, f"{seed}/other", plan.prefix), f"{seed}/warm"))
        new = await _whole(server, _about(prefix, f"{seed}/new"))
        seen = await _whole(server, _about(prefix, f"{seed}/seen"))
    async with running(contestant, setup, log, f"{seed}/2") as server:
        restarted = await _whole(server, _about(prefix, f"{seed}/restarted"))
    answers = {"new": new, "seen": seen, "restarted": restarted}
    result.add(
        "restart", contestant.name, round_, **{name: _figures(answer) for name, answer in answers.items()}
    )


def _about(system: str, seed: str) -> Request:
    return Request(messages=(story(seed),), tokens=_TURN_TOKENS, system=system)


async def _whole(server: Server, request: Request) -> Answer:
    answer = await ask(server.target(), request)
    if not _is_answer(answer):
        raise ContestantError(f"a prompt was not answered: {answer.fault()}")
    return answer


def _is_answer(answer: Answer) -> bool:
    """Silence is one, too: what it took until then is what counts here."""
    return not answer.fault() or answer.is_silence


def _figures(answer: Answer) -> dict[str, Any]:
    return {
        "ttft": rounded(answer.ttft if answer.ttft is not None else answer.seconds),
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
    }
