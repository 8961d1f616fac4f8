"""Tables of the parts beyond throughput; each is empty where its part was not measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from bench.figures import middle, ratio
from bench.soak import MINUTE
from bench.stolen import MOST
from bench.tables import MISSING, mib, ms, number, table, times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.result import Result


def waves(result: Result) -> str:
    """TTFT of the first wave after a start, and of later ones: medians over starts, of ratios those within a start."""
    starts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for each in _ordered(result, "wave"):
        starts.setdefault((each["contestant"], each["concurrency"]), []).append(each)
    rows = [
        [
            f"{name}, {concurrency}",
            *(
                ms(middle(each[when][share] for each in found))
                for when in ("first", "later")
                for share in ("p50", "p99")
            ),
            times(ratio(each["first"]["p99"], each["later"]["p99"]) for each in found),
        ]
        for (name, concurrency), found in starts.items()
    ]
    head = ["concurrent", "first, p50 ms", "p99 ms", "later, p50 ms", "p99 ms", "p99 first / later"]
    return table(head, rows) if rows else ""


def fair(result: Result) -> str:
    """Gaps of eight streams around a ninth client's long prompt."""
    rows = []
    for each in _ordered(result, "fair"):
        during, before = each["during"], each["before"]
        rows.append(
            [
                each["contestant"],
                str(each["long_prompt"]),
                str(each.get("visits", 1)),
                *(ms(gaps[share]) for gaps in (before, during) for share in ("p50", "p99")),
                number(ratio(during["p99"], during["p50"]), digits=2),
                number(ratio(during["p99"], before["p50"]), digits=2),
                number(each["together"], digits=2),
                number(each["alone"], digits=2),
                number(each["work_kept"], digits=2),
                *_stolen(each, result),
            ]
        )
    head = [
        *(
            "",
            "prompt",
            "times",
            "before, p50 ms",
            "p99 ms",
            "during, p50 ms",
            "p99 ms",
            "p99 / p50",
            "p99 / p50 before",
        ),
        *("its TTFT, s", "alone, s", "work kept"),
        *(("taken by the host", "work kept but for that") if _tells_stolen(result, "fair") else ()),
    ]
    return table(head, rows) if rows else ""


def _stolen(each: dict[str, Any], result: Result) -> list[str]:
    """What the host took while both ran, and the work kept but for all that it took."""
    if not _tells_stolen(result, "fair"):
        return []
    if "stolen" not in each:
        return [MISSING, MISSING]
    return [f"{each['stolen']['together']:.1%}", number(each["own_work_kept"], digits=2)]


def _tells_stolen(result: Result, part: str) -> bool:
    """Whether that is known, and all processors work together, so that it matters: a GPU's host has other things to do."""
    return result.facts["backend"] == "cpu" and any("stolen" in each for each in result.of(part))


def turns(result: Result) -> str:
    """Cached of all prompt tokens, and TTFT, turn by turn."""
    return _by_number(result, "turn", "turn")


def prefix(result: Result) -> str:
    """The first user behind a system prompt, and the others."""
    rows = [
        [
            each["contestant"],
            *(cell for who in ("first", "others") for cell in (_cached(each[who]), ms(each[who]["ttft"]))),
            number(ratio(each["first"]["ttft"], each["others"]["ttft"])),
        ]
        for each in _ordered(result, "prefix")
    ]
    head = ["", "first: cached", "TTFT, ms", "others: cached", "TTFT p50, ms", "first / others"]
    return table(head, rows) if rows else ""


def restart(result: Result) -> str:
    """A long prefix that is new, seen, and seen before a restart: medians over rounds, of ratios those within a round."""
    names = {"new": "new", "seen": "seen", "restarted": "seen before a restart"}
    found = list(result.of("restart"))
    rows = [
        [
            name,
            _cached(found[0][key]),
            ms(middle(each[key]["ttft"] for each in found)),
            times((ratio(each[key]["ttft"], each["new"]["ttft"]) for each in found), digits=3),
        ]
        for key, name in names.items()
        if found
    ]
    return table(["prefix", "cached", "TTFT, ms", "of new"], rows) if rows else ""


def port(result: Result) -> str:
    """Port up against imports."""
    found = list(result.of("port"))
    if not found:
        return ""
    quotients = [each["port_up"] / each["imports"] for each in found]
    imports, up = (middle(each[key] for each in found) for key in ("imports", "port_up"))
    return table(
        ["imports, s", "port up, s", "ratio"],
        [[number(imports, digits=3), number(up, digits=3), times(quotients)]],
    )


def soak(result: Result) -> str:
    """The second and the last minute, the extremes, and thirds of the time; what the first one warms is left out."""
    _, *minutes = list(result.of("soak")) or [None]
    if not minutes:
        return ""
    rows = []
    for name, pick in _SOAK.items():
        if name == OF_CEILING and "ceiling" not in minutes[0]:
            continue  # it need not take part
        if name == BUT_FOR_HOST and not _tells_stolen(result, "soak"):
            continue
        values = [pick(each) for each in minutes]
        shown = [_shown(name, value) for value in (values[0], values[-1], min(values), max(values))]
        rows.append([name, *shown, _drift(values[0], values[-1]), _drift(*_thirds(values))])
    faults = sum(each["faults"] for each in result.of("soak"))
    head = [
        f"{minutes[-1]['minute']} minutes",
        "in minute 2",
        "in the last",
        "least",
        "most",
        "last / second",
        "last third / first",
    ]
    return table(head, rows) + f"\n\nOf a third of the time, the median counts. {faults} requests failed."


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last third."""
    third = -(-len(values) // 3)
    return statistics.median(values[:third]), statistics.median(values[-third:])


def _total(key: str) -> Any:
    return lambda each: sum(process[key] for process in each["processes"])


def _memory(role: str) -> Any:
    return lambda each: sum(process["memory"] for process in each["processes"] if process["role"] == role)


OF_CEILING = "tok/s by the ceiling's"
BUT_FOR_HOST = "tok/s but for what the host took"
_SOAK = {
    "tok/s": lambda each: each["tokens_per_second"],
    BUT_FOR_HOST: lambda each: each["tokens_per_second"] / (1 - min(each["stolen"], MOST)),
    OF_CEILING: lambda each: each["tokens_per_second"] / each["ceiling"],
    "tok per second of processor time": lambda each: each["tokens_per_second"] * MINUTE / each["cpu"],
    "memory of the daemon, MiB": _memory("server"),
    "memory of the engine, MiB": _memory("engine"),
    "descriptors": _total("fds"),
    "threads": _total("threads"),
}


def _shown(name: str, value: float) -> str:
    if name.startswith("memory"):
        return mib(value)
    if name == OF_CEILING:
        return number(value, digits=2)
    return number(value, digits=1 if name.startswith("tok") else 0)


def _drift(first: float, last: float) -> str:
    return f"{last / first - 1:+.1%}" if first else MISSING


def _by_number(result: Result, part: str, key: str) -> str:
    names = result.contestants(part)
    found = {(each["contestant"], each[key]): each for each in result.of(part)}
    numbers = sorted({place for _, place in found})
    rows = []
    for place in numbers:
        row = [str(place)]
        for name in names:
            each = found.get((name, place))
            row += [_cached(each), ms(each["ttft"])] if each else [MISSING, MISSING]
        rows.append(row)
    head = [key, *(cell for name in names for cell in (f"{name}: cached", "TTFT, ms"))]
    return table(head, rows) if rows else ""


def _cached(figures: dict[str, Any]) -> str:
    return f"{number(figures['cached_tokens'], digits=0)} of {number(figures['prompt_tokens'], digits=0)}"


def _ordered(result: Result, part: str) -> list[dict[str, Any]]:
    names = result.contestants(part)
    return sorted(
        result.of(part), key=lambda each: (names.index(each["contestant"]), each.get("concurrency", 0))
    )
