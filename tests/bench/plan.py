"""How much is measured: the options of a run, as values."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from bench import contestants
from pensieved.settings.schema import STARTER_MODEL

PARTS = ("levels", "waves", "fair", "turns", "prefix", "restart", "port")
"""What a run measures unless told otherwise; `soak` comes with --soak."""
WORK = Path("build", "bench")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run.

    Args:
        model: as `--model-url` takes it.
        quantization: likewise; every contestant serves what it makes of the model.
        levels: concurrencies.
        requests: of each stream in a level.
        tokens: of each answer.
        rounds: how often levels, waves, restarts and starts are measured.
        only: contestants; empty: all that there are.
        parts: of PARTS.
        soak: minutes; 0: none.
        long_prompt: tokens that the ninth client of `fair` brings.
        prefix: tokens that are shared in `prefix` and kept in `restart`.
        port_rounds: starts of the daemon in `port`.
        seed: of all prompts.
        cache_dir: prepared models, and what the daemon keeps.
        gguf: for llama-server.
        out: the JSON; None: named after the machine and the model.
        quick: whether this is only to see that everything runs.
        words: the command line that said all this.
    """

    model: str
    quantization: str
    levels: tuple[int, ...]
    requests: int
    tokens: int
    rounds: int
    only: tuple[str, ...]
    parts: tuple[str, ...]
    soak: float
    long_prompt: int
    prefix: int
    port_rounds: int
    seed: str
    cache_dir: Path
    gguf: Path | None
    out: Path | None
    quick: bool
    words: tuple[str, ...]


CONTESTANTS = tuple(each.name for each in contestants.ALL)
_QUICK_CONTESTANTS = ("ceiling", "daemon", "mlx_lm.server")
_UNTOLD = frozenset({"--out", "--cache-dir", "--parts", "--soak"})
_FULL = {
    "levels": "1,4,8,16,32",
    "requests": 2,
    "tokens": 64,
    "rounds": 3,
    "long_prompt": 8000,
    "prefix": 4000,
}
_QUICK = {"levels": "1,4", "requests": 1, "tokens": 8, "rounds": 1, "long_prompt": 256, "prefix": 128}


def parse(words: list[str]) -> Plan:
    """From a command line; says what is wrong with it and exits with 2."""
    parser = _parser()
    said = parser.parse_args(words)
    sizes = {name: getattr(said, name) or value for name, value in (_QUICK if said.quick else _FULL).items()}
    try:
        only, parts = _named(said.only, CONTESTANTS), _named(said.parts, PARTS)
        levels = tuple(sorted({int(level) for level in str(sizes.pop("levels")).split(",")}))
    except ValueError as error:
        parser.error(str(error))
    return Plan(
        model=said.model,
        quantization=said.quantization,
        levels=levels,
        **{name: int(value) for name, value in sizes.items()},
        only=only or (_QUICK_CONTESTANTS if said.quick else ()),
        parts=parts,
        soak=said.soak,
        port_rounds=1 if said.quick else 5,
        seed=said.seed or str(int(time.time())),
        cache_dir=said.cache_dir.resolve(),
        gguf=said.gguf,
        out=said.out,
        quick=said.quick,
        words=tuple(words),
    )


def _named(words: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names out of `known`, in its order. Raises ValueError for any other."""
    asked = set(filter(None, words.split(",")))
    if strange := asked - set(known):
        raise ValueError(f"{', '.join(sorted(strange))}: not one of {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def told(words: tuple[str, ...]) -> list[str]:
    """The command line as the documents show it: without what says where and which part, and without this machine's folders."""
    left, shown = iter(words), []
    for word in left:
        name, equals, value = word.partition("=")
        if name in _UNTOLD:
            if not equals:
                next(left, None)
        elif Path(value or word).is_absolute():
            shown.append(f"{name}={Path(value).name}" if value else Path(word).name)
        else:
            shown.append(word)
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m bench",
        description="Ceiling, daemon and peers in turn, as one JSON.",
        allow_abbrev=False,  # `told` must know each option
    )
    add = parser.add_argument
    add("--model", default=STARTER_MODEL, help="folder or source, as --model-url takes it")
    add("--quantization", default="auto", help="as `pensieved run` has it; all contestants serve the outcome")
    add("--concurrency", dest="levels", help=f"levels ({_FULL['levels']})")
    add("--requests", type=int, help=f"of each stream in a level ({_FULL['requests']})")
    add("--tokens", type=int, help=f"of each answer ({_FULL['tokens']})")
    add(
        "--rounds",
        type=int,
        help=f"of levels, waves, restarts and starts; medians are shown ({_FULL['rounds']})",
    )
    add("--only", default="", help="contestants: " + ",".join(CONTESTANTS))
    add("--parts", default=",".join(PARTS), help="%(default)s")
    add("--soak", type=float, default=0.0, help="minutes with eight streams (none)")
    add("--long-prompt", type=int, help=f"tokens that a ninth client brings ({_FULL['long_prompt']})")
    add("--prefix", type=int, help=f"tokens of a shared prefix ({_FULL['prefix']})")
    add("--seed", help="of all prompts (the time: what was asked before is in the daemon's cache on disk)")
    add("--cache-dir", type=Path, default=WORK / "cache", help="prepared models (%(default)s)")
    add("--gguf", type=Path, help="the model for llama-server (the one in the source, if any)")
    add("--out", type=Path, help="the JSON (docs/benchmarks/BACKEND-MODEL.json; with --quick in build/bench)")
    add("--quick", action="store_true", help="little of everything: to see that it runs")
    return parser
