"""A result as tables in Markdown. Medians over rounds; ratios are taken within a round, then their median."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.figures import middle, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.result import Result

MISSING = "-"
"""Where there is no figure."""
_UNEQUAL = 0.01


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column says what a row is; the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def level_values(
    result: Result, contestant: str, concurrency: int, pick: Callable[[dict[str, Any]], Any]
) -> dict[int, Any]:
    """One figure of a level, by round."""
    levels = result.of("level", contestant=contestant, concurrency=concurrency, dialect="openai")
    return {each["round"]: pick(each) for each in levels}


def rate(measurement: dict[str, Any]) -> float:
    """Output tokens a second."""
    return float(measurement["tokens_per_second"])


def levels_of(result: Result) -> list[int]:
    """The concurrencies that were measured."""
    return sorted({each["concurrency"] for each in result.of("level")})


def level_ratio(result: Result, one: str, other: str, concurrency: int) -> list[float]:
    """`one`'s tokens a second over `other`'s, one for each round that has both."""
    ones, others = (level_values(result, name, concurrency, rate) for name in (one, other))
    quotients = (ratio(ones[round_], others[round_]) for round_ in sorted(ones.keys() & others.keys()))
    return [each for each in quotients if each is not None]


def ratios(result: Result) -> str:
    """What is asked first: how much of the ceiling is served, and how peers compare."""
    there = result.contestants("level")
    pairs = [(name, "ceiling") for name in there if name != "ceiling" and "ceiling" in there]
    pairs += [("daemon", name) for name in there if name not in {"ceiling", "daemon"} and "daemon" in there]
    rows = [
        [str(level), *(times(level_ratio(result, one, other, level)) for one, other in pairs)]
        for level in levels_of(result)
    ]
    return table(["concurrent", *(f"{one} / {other}" for one, other in pairs)], rows)


def times(values: Iterable[float | None], digits: int = 2) -> str:
    """A median of what there is, and in brackets what the rounds lay between."""
    there = [value for value in values if value is not None]
    if not there:
        return MISSING
    found, *bounds = (f"{value:.{digits}f}" for value in (middle(there) or 0.0, min(there), max(there)))
    return found if len(there) == 1 else f"{found} ({' to '.join(bounds)})"


def number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    """A figure, or a dash where it was not measured."""
    return MISSING if value is None else f"{value * scale:,.{digits}f}"


def ms(value: float | None) -> str:
    """Seconds as milliseconds."""
    return number(value, 1e3, 1 if value is not None and value < 0.1 else 0)


def mib(value: float | None) -> str:
    """Bytes as MiB."""
    return number(value, 1 / 2**20, 0)


def throughput(result: Result) -> str:
    """Output tokens a second."""
    names = result.contestants("level")
    rows = [
        [str(level), *(number(middle(level_values(result, name, level, rate).values())) for name in names)]
        for level in levels_of(result)
    ]
    return table(["concurrent", *names], rows)


def dialects(result: Result) -> str:
    """The same load in the daemon's other dialect; empty where it was not measured."""
    rows = []
    for level in levels_of(result):
        found = {
            dialect: middle(
                rate(each)
                for each in result.of("level", contestant="daemon", concurrency=level, dialect=dialect)
            )
            for dialect in ("openai", "anthropic")
        }
        if found["anthropic"] is not None:
            quotient = ratio(found["anthropic"], found["openai"])
            rows.append(
                [str(level), number(found["openai"]), number(found["anthropic"]), number(quotient, digits=2)]
            )
    return table(["concurrent", "OpenAI, tok/s", "Anthropic, tok/s", "ratio"], rows) if rows else ""


def latencies(result: Result, figure: str) -> str:
    """p50 / p99 of `ttft` or `gap`, in ms."""
    names = result.contestants("level")

    def cell(name: str, level: int) -> str:
        found = level_values(result, name, level, lambda each: each[figure]).values()
        return f"{ms(middle(each['p50'] for each in found))} / {ms(middle(each['p99'] for each in found))}"

    rows = [[str(level), *(cell(name, level) for name in names)] for level in levels_of(result)]
    return table(["concurrent", *names], rows)


def client_cost(result: Result) -> float:
    """The largest share of one core that the load generator took."""
    return max((each.get("client_cpu", 0.0) for each in result.of("level")), default=0.0)


def unequal(result: Result) -> list[str]:
    """Where a contestant's prompts or answers were not as many tokens as the ceiling's, and where some failed."""
    found = []
    for each in result.of("level"):
        name = f"{each['contestant']} at {each['concurrency']}"
        if each["faults"]:
            found.append(f"{name}: {each['faults']} of {each['requests']} requests failed")
        same = {key: each[key] for key in ("concurrency", "round", "requests", "dialect")}
        theirs = result.of("level", contestant="ceiling", **same)
        for ceiling in theirs:
            for figure in ("prompt_tokens", "output_tokens"):
                mine, other = each[figure] / each["requests"], ceiling[figure] / ceiling["requests"]
                if abs(mine - other) > _UNEQUAL * other:
                    what = figure.replace("_", " ")
                    found.append(f"{name}: {mine:.1f} {what} a request, the ceiling's were {other:.1f}")
    return sorted(set(found))


def memory_of(measurement: dict[str, Any], role: str = "") -> int | None:
    """Of all processes, or of those with that role."""
    sizes = [each["memory"] for each in measurement["processes"] if role in {"", each["role"]}]
    return sum(sizes) if sizes else None


def starts(result: Result) -> str:
    """Seconds from the start of the process, memory when it has answered and under load; and a later start's."""
    rows = []
    for name in result.contestants("start"):
        found = list(result.of("start", contestant=name))
        loaded = list(result.of("level", contestant=name))
        port_up, first, ready = (
            middle(each.get(key) for each in found) for key in ("port_up", "first_token", "ready")
        )
        peak = max((memory_of(each) or 0 for each in loaded), default=None)
        gpu = middle(each.get("gpu_memory") for each in found)
        later = list(result.of("again", contestant=name))
        first_again, ready_again = (
            middle(each.get(key) for each in later) for key in ("first_token", "ready")
        )
        kept = all(each.get("kept") for each in found)
        rows.append(
            [
                f"{name}, kernels kept" if kept else name,
                number(port_up, digits=2),
                number(first, digits=2),
                number(ready, digits=2),
                number(first_again, digits=2),
                number(ready_again, digits=2),
                mib(middle(map(memory_of, found))),
                mib(middle(map(memory_of, later))),
                mib(peak),
                mib(gpu),
            ]
        )
    head = [
        "",
        "port up, s",
        "first token, s",
        "ready, s",
        "first token again, s",
        "ready again, s",
        "memory, MiB",
        "memory again, MiB",
        "largest after a level, MiB",
        "more GPU memory, MiB",
    ]
    return table(head, rows)


def processes(result: Result) -> str:
    """The daemon's two processes by themselves, beside what an engine cannot go below; empty if not measured."""
    found = list(result.of("start", contestant="daemon"))
    if not found:
        return ""
    bare, weights = result.facts["bare_interpreter"]["memory"], result.facts["model"]["weight_bytes"]
    rows = [
        ["daemon", mib(middle(memory_of(each, "server") for each in found))],
        ["engine", mib(middle(memory_of(each, "engine") for each in found))],
        ["an interpreter with mlx-lm imported", mib(bare)],
        ["the weights", mib(weights)],
    ]
    return table(["", "memory, MiB"], rows)
