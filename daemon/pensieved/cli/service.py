"""The short commands around the launchd agent; `install`, `status`, `logs` and `reload` are in files of their own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from pensieved.cli.address import address_of
from pensieved.cli.agents import DEFAULT, Label, agent_settings, alone_on
from pensieved.cli.purge import purge_agent
from pensieved.cli.waiting import Wait
from pensieved.service.agent import find_agent, installed_plist
from pensieved.service.launchctl import Launchctl
from pensieved.service.lifecycle import Change, Lifecycle
from pensieved.service.lint import problems

if TYPE_CHECKING:
    pass

NoWait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready.")]


def uninstall(
    label: Label = DEFAULT,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove its configuration, its logs and its prepared models.")
    ] = False,
) -> None:
    """Stop the agent and remove it; configuration, logs and models stay unless purged."""
    lifecycle = _lifecycle(label)
    with alone_on(lifecycle.agent):
        leftovers = purge_agent(lifecycle.agent) if purge else None
        removed = lifecycle.uninstall()
        typer.echo(f"{label} {'is uninstalled' if removed else 'was not installed'}.")
        for line in leftovers() if leftovers else ():
            typer.echo(line)


def start(label: Label = DEFAULT, wait: NoWait = True) -> None:
    """Start the agent."""
    lifecycle = _lifecycle(label)
    _warn(lifecycle)
    with alone_on(lifecycle.agent):
        change = lifecycle.start()
    typer.echo(f"{label}: {'runs already' if change is Change.NONE else change.value}.")
    if wait:
        _await(lifecycle, not_before=0.0)


def stop(label: Label = DEFAULT) -> None:
    """Stop the agent, running requests finished, until it is started or the next login."""
    lifecycle = _lifecycle(label)
    with alone_on(lifecycle.agent):
        stopped = lifecycle.stop()
    typer.echo(f"{label} {'is stopped' if stopped else 'was not running'}.")


def restart(label: Label = DEFAULT, wait: NoWait = True) -> None:
    """Start the agent anew, running requests finished."""
    lifecycle = _lifecycle(label)
    _warn(lifecycle)
    began = time.time()
    with alone_on(lifecycle.agent):
        change = lifecycle.restart()
    typer.echo(f"{label}: {change.value}.")
    if wait:
        _await(lifecycle, not_before=began)


def _lifecycle(label: str) -> Lifecycle:
    return Lifecycle(Launchctl(), find_agent(label))


def _warn(lifecycle: Lifecycle) -> None:
    """Say what launchd will not understand in a plist that somebody edited; it is theirs to edit."""
    for problem in problems(installed_plist(lifecycle.agent) or {}) if lifecycle.agent.plist.exists() else ():
        typer.echo(f"{lifecycle.agent.plist}: {problem}.", err=True)


def _await(lifecycle: Lifecycle, *, not_before: float) -> None:
    address = address_of(agent_settings(lifecycle.agent).server)
    Wait(lifecycle, address, not_before).until_ready()
    typer.echo(f"ready on {address.url}")
