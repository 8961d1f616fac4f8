"""`pensieved logs`."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from pensieved.cli.agents import DEFAULT, Label, agent_settings
from pensieved.cli.logtail import follow, last_lines, readable, size_of
from pensieved.errors import ConfigError, NotRunningError
from pensieved.logfile import LogFile
from pensieved.service.agent import Agent, find_agent


def logs(
    label: Label = DEFAULT,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is added.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
    raw: Annotated[bool, typer.Option(help="The lines as they stand in the file.")] = False,
) -> None:
    """Show the agent's log."""
    agent = find_agent(label)
    file = log_file(agent)
    if not following and not any(path.exists() for path in file.generations()):
        raise NotRunningError(
            f"There is no log at {file.path} yet.",
            hint=f"`pensieved status{agent.option}` says whether the agent runs; what it said before it could write "
            f"its log is in {agent.output}.",
        )
    end = size_of(file.path)
    for line in last_lines(file, lines):
        typer.echo(line if raw else readable(line))
    if following:
        with contextlib.suppress(KeyboardInterrupt):
            for line in follow(file.path, end):
                typer.echo(line if raw else readable(line))


def log_file(agent: Agent) -> LogFile:
    """Where the agent logs; where its TOML is broken, where it would by default."""
    try:
        found = agent_settings(agent).logging.destination(agent.label)
    except ConfigError:
        found = None
    return found or LogFile(agent.log)
