"""`pensieved doctor`: look at everything that a daemon depends on, and say what to do where it is not right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pensieved.cli.agents import DEFAULT, Label
from pensieved.cli.checks.finding import Finding, Level
from pensieved.cli.checks.run import CHECKS, findings, report
from pensieved.cli.checks.scene import look_around
from pensieved.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterable

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_SIGNS = {Level.OK: "✓", Level.NOTE: "·", Level.WARNING: "!", Level.PROBLEM: "✗"}
_NAME = max(map(len, CHECKS))


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="The TOML to look at; by default the agent's, else the one in use.")
    ] = None,
    label: Label = DEFAULT,
    speed: Annotated[bool, typer.Option(help="Measure MLX for a few seconds.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check machine, configuration, cache, port and agent, and say what to do; exit 1 where there is a problem.

    It repairs nothing, asks no network, and works whether a daemon runs or not.
    """
    configure_logging("error", "auto")
    scene = look_around(label, config)
    found: list[Finding] = []
    told = findings(scene, leave_out=frozenset() if speed else frozenset({"speed"}))
    if as_json:
        found += told
        typer.echo(msgspec.json.format(msgspec.json.encode(report(found)), indent=2).decode())
    elif sys.stdout.isatty():
        _paint(told, found)
    else:
        _print(told, found)
    if not report(found).ok:
        raise typer.Exit(1)


def plain(finding: Finding) -> str:
    """A finding as text: a line that can be searched for its level, the rest below it."""
    lines = [f"{finding.level.value:<8} {finding.check:<{_NAME}}  {finding.what}"]
    if finding.level is not Level.OK:
        indent = " " * (_NAME + 11)
        lines += [
            f"{indent}{word}: {more}" for word, more in (("why", finding.why), ("do", finding.todo)) if more
        ]
    return "\n".join(lines)


def _print(told: Iterable[Finding], found: list[Finding]) -> None:
    for finding in told:
        found.append(finding)
        typer.echo(plain(finding))
        sys.stdout.flush()
    typer.echo(f"\n{_sum_up(found)}")


def _paint(told: Iterable[Finding], found: list[Finding]) -> None:
    console = Console(highlight=False)
    with console.status("looking"):
        for finding in told:
            found.append(finding)
            console.print(_row(finding))
    console.print(f"\n{_sum_up(found)}")


def _row(finding: Finding) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=_NAME + 2)
    row.add_column(overflow="fold")
    said = Text(finding.what)
    if finding.level is not Level.OK:
        said.append(f"\n{finding.why}" if finding.why else "", "dim")
        said.append(f"\n{finding.todo}" if finding.todo else "")
    row.add_row(Text(f"{_SIGNS[finding.level]} {finding.check}", _STYLES[finding.level]), said)
    return row


def _sum_up(found: list[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in found) for level in Level}
    words = [
        f"{counts[level]} {level.value}{'' if counts[level] == 1 else 's'}"
        for level in (Level.PROBLEM, Level.WARNING)
        if counts[level]
    ]
    return " and ".join(words) + "." if words else "All is well."
