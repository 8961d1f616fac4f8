"""What a warm-up leaves to be compiled: `python -m bench.cold MODEL` starts a daemon where nothing was ever compiled.

When it is ready, each kind of traffic comes twice, with other texts. Kernel files that come meanwhile are of shapes or
samplers that the warm-up has not met, and everybody who streams has waited for them: the exit code is 1. A kind that takes
longer the first time and compiles nothing has met something else that is made once, such as the vocabulary's trie of
the first grammar. (On a CPU nothing is compiled at all. On Metal what is compiled leaves no files: there the times tell.)
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contestants import entered
from bench.dialects import Request
from bench.load import ask
from bench.prepare import prepared, set_up
from bench.prompts import WORDS_PER_PROMPT, words
from bench.servers import running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.load import Target

SLOTS = 32
_KERNELS = {".cubin", ".ptx", ".so"}
_GOES = ("first", "again")
_GREEDY = {"temperature": 0}
_PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.4, "logit_bias": {"7": 5}}
_COUNT = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
    "additionalProperties": False,
}
_SCHEMA = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "count", "schema": _COUNT, "strict": True},
    }
}


@dataclass(frozen=True, kw_only=True)
class Some:
    """Requests that come at once.

    Args:
        count: how many.
        length: words of each one's text.
        tokens: of each answer.
        fields: of the body of each, by its number.
        after: kind whose first text these go on from, as a next turn.
    """

    count: int
    length: int = WORDS_PER_PROMPT
    tokens: int = 12
    fields: Callable[[int], dict[str, Any]] = lambda _: {}
    after: str = ""


KINDS: dict[str, tuple[Some, ...]] = {
    "8 sampled": (Some(count=8),),
    "3 at another temperature": (Some(count=3, fields=lambda _: {"temperature": 0.33}),),
    "8 greedy": (Some(count=8, fields=lambda _: _GREEDY),),
    "32 greedy": (Some(count=32, fields=lambda _: _GREEDY),),
    "1 alone": (Some(count=1),),
    "4 with top_p": (Some(count=4, fields=lambda place: {"top_p": 0.5 + place / 20}),),
    "8 temperatures": (Some(count=8, fields=lambda place: {"temperature": place / 5}),),
    "3 with a seed": (Some(count=3, fields=lambda place: {"seed": place}),),
    "3 with penalties": (Some(count=3, fields=lambda _: _PENALTIES),),
    "5 with log-probabilities": (
        Some(count=5, fields=lambda place: {"logprobs": True, "top_logprobs": place}),
    ),
    "3 with a schema": (Some(count=3, fields=lambda place: {**_SCHEMA, "temperature": place / 2}),),
    "1,000 tokens": (Some(count=1, length=900, fields=lambda _: _GREEDY),),
    "1,000 tokens, next turn": (Some(count=1, after="1,000 tokens", fields=lambda _: _GREEDY),),
    "8,000 tokens beside 8": (Some(count=8, tokens=200), Some(count=1, length=7500)),
    "4 of 1,000 tokens": (Some(count=4, length=900, tokens=100),),
    "2,500 tokens beside 9": (Some(count=1, length=2400, tokens=150), Some(count=9, tokens=100)),
}
"""Traffic by its name. What is not said is the bench's default but for the temperature, which is 0.7."""


def requests(kind: str, seed: str) -> list[Request]:
    """All of a kind; no two texts are the same, nor any in two seeds."""
    return [
        Request(
            messages=(
                *((_text(some.after, seed, 0, 0), "Yes.") if some.after else ()),
                _text(kind, seed, part, place),
            ),
            tokens=some.tokens,
            extra={"temperature": 0.7, **some.fields(place)},
        )
        for part, some in enumerate(KINDS[kind])
        for place in range(some.count)
    ]


def _text(kind: str, seed: str, part: int, place: int) -> str:
    return words(f"{seed}/{kind}/{part}/{place}", KINDS[kind][part].length)


async def together(target: Target, asked: Sequence[Request]) -> tuple[float, list[str]]:
    """Seconds until the last of them has its answer, and what was wrong with any."""
    begun = time.perf_counter()
    answers = await asyncio.gather(*(ask(target, request) for request in asked))
    wrong = [answer.fault() for answer in answers if answer.fault() and not answer.is_silence]
    return time.perf_counter() - begun, wrong


def compiled(folder: Path) -> set[str]:
    """Names of kernel files below a folder."""
    return {path.name for path in folder.rglob("*") if path.suffix in _KERNELS}


async def look(target: Target, folder: Path) -> bool:
    """Print a row for each kind; whether nothing was compiled and nothing went wrong."""
    known, good = compiled(folder), True
    print(f"\n| {len(known)} kernels when ready | first, s | again, s | kernels since |\n|---|---|---|---|")
    for name in KINDS:
        results = [await together(target, requests(name, go)) for go in _GOES]
        now = compiled(folder)
        took = " | ".join(f"{seconds:.2f}" for seconds, _ in results)
        print(f"| {name} | {took} | {', '.join(sorted(now - known)) or '-'} |", flush=True)
        wrong = [fault for _, faults in results for fault in faults]
        for fault in wrong:
            print(f"{name}: {fault}", file=sys.stderr, flush=True)
        good, known = good and not wrong and now == known, now
    return good


async def measure(options: argparse.Namespace, cache_dir: Path) -> bool:
    """All of it, with a daemon whose cache is that empty folder."""
    model = prepared(options.model, options.quantization, cache_dir)
    setup = set_up(model, options.model, options.quantization, cache_dir, slots=SLOTS, gguf=None)
    ((daemon,), _) = entered(setup, ("daemon",))
    async with running(daemon, setup, cache_dir / "daemon.log", "cold") as server:
        print(", ".join(f"{name} {server.started[name]:.1f} s" for name in ("first_token", "ready")))
        return await look(server.target(), setup.kernels(daemon.name))


def main(arguments: list[str]) -> int:
    """Exit code 1 where something was compiled that should have been, or an answer was none."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cold", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", help="folder or source, as --model-url takes it")
    parser.add_argument("--quantization", default="none", help="as `pensieved run` has it (none)")
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(measure(parser.parse_args(arguments), Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
