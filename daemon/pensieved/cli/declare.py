"""What `install` would write, all of it validated before any of it is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pensieved.cli.agents import environment_of, listening_ports
from pensieved.errors import PortTakenError, UsageError
from pensieved.http.door import check_exposure
from pensieved.http.listen import bind
from pensieved.models.source import FolderSource, GgufSource, parse_source
from pensieved.service import plist
from pensieved.service.environment import agent_environment
from pensieved.settings.edit import changed_text, read_text
from pensieved.settings.load import ENV_PREFIX, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pensieved.service.agent import Agent
    from pensieved.service.environment import AgentEnvironment
    from pensieved.service.launchctl import Job
    from pensieved.settings import Settings

_GUARDED = ("Desktop", "Documents", "Downloads", "Library/Mobile Documents", "Library/CloudStorage")


@dataclass(frozen=True)
class Declaration:
    """An agent as it shall be.

    Args:
        toml: the configuration's new text.
        keys: dotted keys in which it differs from the old one.
        settings: what the daemon will read.
        environment: for the plist.
        plist: its bytes.
        plist_keys: in which it differs from the installed one.
    """

    agent: Agent
    toml: str
    keys: tuple[str, ...]
    settings: Settings
    environment: AgentEnvironment
    plist: bytes
    plist_keys: tuple[str, ...]


def declare(agent: Agent, changes: dict[str, str | int], *, headless: bool) -> Declaration:
    """Work out what `install` writes.

    Args:
        agent: what is installed.
        changes: values by dotted key, from the flags.
        headless: whether nobody is logged in at the screen.

    Raises:
        UsageError: the model or a setting cannot be meant.
        ConfigError: the TOML is wrong; names file and line.
        ServiceError: launchd would not understand the plist.
    """
    if isinstance(url := changes.get("model.url"), str):
        changes = {**changes, "model.url": _lasting(url)}
    old = read_text(agent.config)
    new = changed_text(old, changes)
    overruled = {ENV_PREFIX + key.upper().replace(".", "__") for key in changes}
    environment = agent_environment(os.environ, agent.label, overruled=overruled)
    with environment_of(environment.variables):
        settings = settings_from(new, agent.config, _nested(changes))
    parse_source(settings.model.url, settings.model.revision)
    check_exposure(settings.server)
    server = settings.server
    wanted = plist.build(
        agent,
        environment.variables,
        drain_timeout=server.drain_timeout,
        headless=headless,
        held=(server.host, server.port) if server.activation == "launchd" else None,
    )
    return Declaration(
        agent=agent,
        toml=new,
        keys=tuple(changes) if new != old else (),
        settings=settings,
        environment=environment,
        plist=plist.serialize(wanted),
        plist_keys=tuple(plist.differing(agent, wanted)),
    )


def check_port(agent: Agent, settings: Settings, job: Job | None) -> None:
    """Refuse a port that somebody else listens on; our own agent may.

    Raises:
        UsageError: an agent needs a port that stays the same.
        PortTakenError: names who listens there.
    """
    server = settings.server
    if server.port == 0:
        raise UsageError("An agent needs a port of its own.", hint="Say --port 8765, for example.")
    try:
        bind(server.host, server.port).close()
    except PortTakenError:
        ours = {plist.held_port(agent)} | (listening_ports(job.pid) if job and job.pid else set())
        if job is None or server.port not in ours:
            raise


def guarded_paths(declaration: Declaration) -> list[Path]:
    """Paths of this agent that macOS lets a terminal read, but perhaps not an agent.

    There a read fails with EPERM, or waits for a question on the screen that nobody sees.
    """
    settings = declaration.settings
    source = parse_source(settings.model.url, settings.model.revision)
    paths = [declaration.agent.config, settings.cache.dir]
    paths += [Path(source.path)] if isinstance(source, FolderSource | GgufSource) else []
    return guarded(paths)


def guarded(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that lie where macOS asks a person before a program may read."""
    folders = [Path("/Volumes"), *(Path.home() / name for name in _GUARDED)]
    return [path for path in paths if any(path.is_relative_to(folder) for folder in folders)]


def _lasting(url: str) -> str:
    """The same source for a process in another working directory."""
    text = url.strip()
    source = parse_source(text)
    relative = isinstance(source, FolderSource | GgufSource) and not text.startswith(("/", "~", "file:"))
    return source.path if relative and isinstance(source, FolderSource | GgufSource) else text


def _nested(changes: dict[str, str | int]) -> dict[str, Any]:
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, name = key.split(".")
        nested.setdefault(section, {})[name] = value
    return nested
