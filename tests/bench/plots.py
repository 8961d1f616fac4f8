"""A result as plots: SVG files that stay the same as long as the figures do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures import middle
from bench.tables import level_values, levels_of, memory_of, rate

if TYPE_CHECKING:
    from pathlib import Path

    from bench.result import Result

_COLOURS = {
    "ceiling": "#8c8c8c",
    "daemon": "#0b6e99",
    "mlx_lm.server": "#d1495b",
    "stock": "#edae49",
    "vllm-mlx": "#66a182",
    "rapid-mlx": "#8d5a97",
    "llama-server": "#5c4742",
}
_SIZE = (7.2, 3.6)  # inches


def draw(result: Result, stem: str, folder: Path) -> dict[str, str]:
    """The plots of a result, as titles by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "throughput": (_throughput(result), "Throughput against concurrency"),
        "ttft": (_latency(result, "ttft", "time to the first token"), "Time to the first token"),
        "gap": (_latency(result, "gap", "between tokens"), "Between tokens"),
        "start": (_start(result), "Start and memory"),
    }
    written = {}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        for kind, (figure, title) in figures.items():
            name = f"{stem}-{kind}.svg"
            figure.savefig(folder / name, format="svg", metadata={"Date": None}, facecolor="white")
            written[name] = title
    return written


def _lines(result: Result, name: str, pick: Any) -> tuple[list[int], list[float]]:
    points = [
        (level, middle(level_values(result, name, level, pick).values())) for level in levels_of(result)
    ]
    there = [(level, value) for level, value in points if value is not None]
    return [level for level, _ in there], [value for _, value in there]


def _axes(result: Result, figure: Figure, label: str) -> Any:
    axes = figure.add_subplot()
    levels = levels_of(result)
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.set_xlabel("concurrent streams")
    axes.set_ylabel(label)
    axes.grid(visible=True, alpha=0.3)
    return axes


def _throughput(result: Result) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = _axes(result, figure, "output tokens a second")
    for name in result.contestants("level"):
        axes.plot(*_lines(result, name, rate), marker="o", markersize=4, color=_COLOURS[name], label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _latency(result: Result, figure_name: str, label: str) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = _axes(result, figure, f"{label}, ms")
    for name in result.contestants("level"):
        for share, style in (("p50", "-"), ("p99", ":")):
            levels, values = _lines(result, name, lambda each, share=share: each[figure_name][share])
            label_of_line = f"{name}, {share}"
            in_ms = [1e3 * value for value in values]
            axes.plot(
                levels, in_ms, style, marker="o", markersize=4, color=_COLOURS[name], label=label_of_line
            )
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small", ncols=2)
    return figure


def _start(result: Result) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [name for name in result.contestants("start") if name != "ceiling"]
    for key, alpha in (("first_token", 0.5), ("port_up", 1.0)):
        values = [
            middle(each.get(key) for each in result.of("start", contestant=name)) or 0.0 for name in names
        ]
        left.barh(names, values, color=[_COLOURS[name] for name in names], alpha=alpha)
    left.set_xlabel("port up (dark), first token (light), s")
    sizes = [(middle(map(memory_of, result.of("start", contestant=name))) or 0.0) / 2**20 for name in names]
    right.barh(names, sizes, color=[_COLOURS[name] for name in names])
    right.set_xlabel("memory of all processes, MiB")
    right.set_yticks([])
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x", alpha=0.3)
    return figure
