"""`python -m bench.report`: docs/benchmarks.md from the results in docs/benchmarks/.

Only what stands between the two markers is made; the rest of the page is written by hand. Each table comes with the
command that makes its figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench import scenes, tables
from bench.result import Result, read
from bench.soak import PROMPT_CACHE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BEGIN, END = (
    "<!-- Made by `make bench`; change tests/bench instead. -->",
    "<!-- End of what `make bench` made. -->",
)
_PAGE = Path("docs", "benchmarks.md")
_WAVES = """\
Each wave begins when the last has ended; every prompt is new. Medians over starts, a start a round; of ratios, each is taken within
a start."""
_FAIR = """\
Gaps between tokens of the eight. Where the prompt is over within a few steps it comes several times, and its times are
means. *Work kept*: the time that the prompt alone and the eight streams alone would have
taken, over the time they took together. What the host of a virtual machine took from all its processors is shown as a share of
one's time. They wait for each other, so *work kept but for that* is computed from times without it."""
_TURNS = "Prompt tokens as each server counts them, and how many it took from its cache."
_PREFIX = "The first user, then eight others, four at a time."
_RESTART = "The question after the prefix is always a new one."
_PORT = """\
`python -c "import falcon, waitress, pydantic_settings, structlog"` and `pensieved run` up to its first response, in turn."""
_PARTS: tuple[tuple[str, str, Callable[[Result], str], str], ...] = (
    ("waves", "First wave after a start", scenes.waves, _WAVES),
    ("fair", "Eight streams while a ninth client brings a long prompt", scenes.fair, _FAIR),
    ("turns", "A conversation", scenes.turns, _TURNS),
    ("prefix", "Users behind one system prompt", scenes.prefix, _PREFIX),
    ("restart", "A prefix across a restart of the daemon", scenes.restart, _RESTART),
    ("port", "Port up, against imports", scenes.port, _PORT),
    (
        "soak",
        "Soak: eight streams for long",
        scenes.soak,
        f"The first minute is left out: the daemon's prompt cache has {PROMPT_CACHE} here and fills in it.",
    ),
)


def replaced(page: str, made: str) -> str:
    """`page` with `made` between the markers. Raises ValueError where they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the results: it needs the lines\n{BEGIN}\n{END}")
    between = f"\n\n{made.strip()}\n\n" if made else "\n"
    return f"{before}{BEGIN}{between}{END}{after}"


def overview(results: Mapping[str, Result]) -> str:
    """The ratios of all results side by side."""
    rows = []
    for one, other in (
        ("daemon", "ceiling"),
        ("mlx_lm.server", "ceiling"),
        ("daemon", "mlx_lm.server"),
        ("daemon", "stock"),
    ):
        for level in sorted({level for result in results.values() for level in tables.levels_of(result)}):
            cells = [
                tables.times(tables.level_ratio(result, one, other, level)) for result in results.values()
            ]
            if set(cells) != {tables.MISSING}:
                rows.append([f"{one} / {other}, {level} concurrent", *cells])
    return tables.table(["output tokens a second", *(title(result) for result in results.values())], rows)


def title(result: Result) -> str:
    """Model and where it ran."""
    model, facts = result.facts["model"], result.facts["machine"]
    where = (
        ", ".join(facts["gpus"]) if result.facts["backend"] != "cpu" and facts["gpus"] else facts["processor"]
    )
    return f"{model['name']}, {model['precision']}, {result.facts['backend']}: {where}"


def section(result: Result, plots: Mapping[str, str]) -> str:
    """Everything about one result."""
    blocks = [f"## {title(result)}", _facts(result)]
    if list(result.of("level")):
        blocks += _levels(result)
        blocks += [f"![{text}](benchmarks/{name})" for name, text in plots.items()]
        blocks += _memory(result)
    for part, heading, make, note in _PARTS:
        if made := make(result):
            blocks += [f"### {heading}", command(result, part), note, made]
    return "\n\n".join([*blocks, _who(result)])


def command(result: Result, part: str) -> str:
    """What to type for one part's figures."""
    minutes = result.facts["plan"]["soak"]
    which = f"--only ceiling,daemon --parts '' --soak {minutes:g}" if part == "soak" else f"--parts {part}"
    words = ["PYTHONPATH=tests python -m bench", result.facts["arguments"], which]
    return f"```\n{' '.join(filter(None, words))}\n```"


def _facts(result: Result) -> str:
    model, plan = result.facts["model"], result.facts["plan"]
    lines = [_machine(result), _work(result)]
    if model.get("made_by"):
        lines.append(f"Random weights: `{model['made_by']}`.")
    if plan["quick"]:
        lines.append("**A quick run: it shows that everything works, not how fast it is.**")
    if not result.complete:
        lines.append("**This run was cut short.**")
    return "\n\n".join(lines)


def _machine(result: Result) -> str:
    facts = result.facts["machine"]
    words = [
        f"{facts['processor']}, {facts['cores']} cores ({facts['usable_processors']} usable processors)",
        f"{facts['memory'] / 2**30:.0f} GiB",
        *([f"{', '.join(facts['gpus'])} with driver {facts['gpu_driver']}"] if facts["gpus"] else []),
        facts["system"],
        f"load average {facts['load_average']} when it began",
        result.facts["made"],
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result.facts["versions"].items())
    return f"{'; '.join(words)}. {versions[0].upper()}{versions[1:]}."


def _work(result: Result) -> str:
    model, plan, blas = (result.facts[key] for key in ("model", "plan", "blas"))
    preload = (
        f"{blas['library']} preloaded, {blas['threads']} threads" if blas["library"] else "no BLAS preloaded"
    )
    return " ".join(
        [
            f"{model['parameters'] / 1e6:.0f} M parameters, {model['weight_bytes'] / 2**20:.0f} MiB of weights; {preload}.",
            f"{plan['rounds']} round{'s' * (plan['rounds'] > 1)}, {plan['requests']} requests of each stream, {plan['tokens']} tokens an answer,",
            f"temperature 0, seed {plan['seed']}.",
            f"The load generator took at most {tables.client_cost(result):.1%} of one core.",
        ]
    )


def _levels(result: Result) -> list[str]:
    blocks = [
        "### Throughput",
        command(result, "levels"),
        "Ratios of output tokens a second:",
        tables.ratios(result),
    ]
    blocks += ["Output tokens a second:", tables.throughput(result)]
    if told := tables.unequal(result):
        blocks += ["Work that was not equal:", "\n".join(f"- {line}" for line in told)]
    if made := tables.dialects(result):
        blocks += ["The daemon's dialects:", made]
    blocks += ["Time to the first token, p50 / p99 ms:", tables.latencies(result, "ttft")]
    return [*blocks, "Between tokens, p50 / p99 ms:", tables.latencies(result, "gap")]


def _memory(result: Result) -> list[str]:
    note = "Resident memory, summed over a server's processes (macOS: footprint); GPU memory is what more was in use on the GPU. *Again*: the starts for the parts below, which find what the first has compiled and kept; *kernels kept*: the first found some, too, of an earlier run."
    blocks = ["### Start and memory", command(result, "levels"), note, tables.starts(result)]
    return [*blocks, *filter(None, [tables.processes(result)])]


def _who(result: Result) -> str:
    lines = [
        f"- {name}: `{each['command']}`{', ' + each['version'] if each.get('version') else ''}"
        for name, each in result.facts["contestants"].items()
    ]
    lines += [f"- {name}: not measured, {why}" for name, why in result.facts["absent"].items()]
    lines += [
        f"- {each['contestant']} failed in {each['where']}: {each['reason']}" for each in result.of("failure")
    ]
    return "\n\n".join(["### Contestants", "\n".join(lines)])


def write(page: Path, paths: list[Path]) -> None:
    """The page's part between the markers, and the plots beside the results."""
    from bench.plots import draw  # noqa: PLC0415  tables need no matplotlib

    results = {path.stem: read(path) for path in paths}
    folder = page.with_suffix("")
    sections = [section(result, draw(result, stem, folder)) for stem, result in results.items()]
    head = ["## Serving, against the ceiling and peers", overview(results)] if results else []
    page.write_text(
        replaced(page.read_text(encoding="utf-8"), "\n\n".join([*head, *sections])), encoding="utf-8"
    )


def main() -> None:
    """From all results, or from those named."""
    parser = argparse.ArgumentParser("python -m bench.report", description="The page from the results.")
    parser.add_argument("results", nargs="*", type=Path, help="JSONs (all in docs/benchmarks/)")
    parser.add_argument("--page", type=Path, default=_PAGE)
    said = parser.parse_args()
    write(said.page, said.results or sorted(said.page.with_suffix("").glob("*.json")))


if __name__ == "__main__":
    main()
