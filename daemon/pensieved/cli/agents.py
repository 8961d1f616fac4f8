"""What the commands about an agent have in common."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from filelock import FileLock, Timeout

from pensieved.errors import ServiceError
from pensieved.service.agent import installed_plist
from pensieved.settings.load import ENV_PREFIX, load_settings
from pensieved.settings.paths import DEFAULT_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pensieved.service.agent import Agent
    from pensieved.settings import Settings

Label = Annotated[
    str, typer.Option("--label", help="The agent's name in launchd; each has its own configuration.")
]
DEFAULT = DEFAULT_LABEL
_PATIENCE = 120.0


@contextlib.contextmanager
def alone_on(agent: Agent) -> Iterator[None]:
    """Be the one command that changes this agent.

    Raises:
        ServiceError: another one is at it, and does not finish.
    """
    agent.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(agent.lock)
    try:
        with lock.acquire(timeout=_PATIENCE):
            yield
    except Timeout:
        raise ServiceError(
            f"Another pensieved command has been changing {agent.label} for two minutes.",
            hint="Wait for it, or end it.",
        ) from None


def agent_settings(agent: Agent) -> Settings:
    """The settings that the installed agent runs with: its TOML, and its plist's environment instead of the shell's.

    Raises:
        ConfigError: the TOML cannot be read or is wrong.
    """
    plist = installed_plist(agent)
    if plist is None:
        return load_settings(config=agent.config if agent.config.exists() else None)
    with environment_of(plist.get("EnvironmentVariables", {})):
        return load_settings(config=agent.config)


def listening_ports(pid: int) -> set[int]:
    """TCP ports that a process listens on; empty where the system does not tell this user."""
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return set()
    return {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN and one.laddr}


@contextlib.contextmanager
def environment_of(variables: Mapping[str, Any]) -> Iterator[None]:
    """Read settings as a process with these variables would: the reader knows no other environment than this one's."""
    shell = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
    agent = {name: str(value) for name, value in variables.items() if name.startswith(ENV_PREFIX)}
    try:
        _swap(shell, agent)
        yield
    finally:
        _swap(agent, shell)


def _swap(out: dict[str, str], into: dict[str, str]) -> None:
    for name in out:
        os.environ.pop(name, None)
    os.environ.update(into)
