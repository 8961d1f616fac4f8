"""`pensieved reload`: have the daemon read its configuration now, and say key by key what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from pensieved.cli.address import Address
from pensieved.cli.agents import DEFAULT, Label
from pensieved.cli.ask import reload_config
from pensieved.cli.standing import look
from pensieved.cli.status import restarting
from pensieved.errors import ConfigError, NotRunningError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.control.reload import ConfigReport


def reload(
    label: Label = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have the daemon read its configuration again, now; it also does so by itself within about a second."""
    standing = look(label)
    report = reload_config(Address(standing.url, standing.key)) if standing.url and standing.answer else None
    if report is None:
        raise NotRunningError(
            "No daemon answers" + (f" on {standing.url}." if standing.url else "."),
            hint="`pensieved status` says more; `pensieved start` starts the agent.",
        )
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    elif not report.error:
        typer.echo("\n".join(describe(report)))
    if report.error:
        raise ConfigError(report.error, hint=report.hint or "")


def describe(report: ConfigReport) -> Iterator[str]:
    """What the latest reading brought, a line a key."""
    if report.changed_at == report.read_at:
        width = max(len(change.key) for change in report.changes)
        yield from (f"{change.key:{width}}  {change.effect.words}" for change in report.changes)
    else:
        yield f"{report.path or 'The configuration'}: nothing has changed since it was read last."
    if report.waiting:
        yield f"waits for `pensieved {restarting(report.waiting)}`: {', '.join(report.waiting)}"
