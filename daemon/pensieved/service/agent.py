"""One agent: its label, and where everything of it lies."""

from __future__ import annotations

import plistlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from pensieved.errors import UsageError
from pensieved.settings.paths import (
    DEFAULT_LABEL,
    default_config_file,
    default_log_file,
    launch_agents_dir,
    state_dir,
)

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Agent:
    """What `pensieved install` declares. Several may exist beside each other, each with a label of its own.

    Args:
        label: launchd's name for it.
        config: the TOML it reads; absolute.
    """

    label: str
    config: Path

    @property
    def plist(self) -> Path:
        """The property list that launchd loads at login."""
        return launch_agents_dir() / f"{self.label}.plist"

    @property
    def log(self) -> Path:
        """The daemon's own log, where `logging.file` names no other."""
        return default_log_file(self.label)

    @property
    def output(self) -> Path:
        """What launchd catches from stdout and stderr."""
        return self.log.with_suffix(".output")

    @property
    def loaded_note(self) -> Path:
        """The memory of what launchd has loaded; see `pensieved.service.fingerprint`."""
        return state_dir() / f"{self.label}.loaded"

    @property
    def lock(self) -> Path:
        """Held by the one command that changes this agent."""
        return state_dir() / f"{self.label}.lock"

    @property
    def option(self) -> str:
        """What to add to a command so that it means this agent; empty for the default one."""
        return "" if self.label == DEFAULT_LABEL else f" --label {self.label}"


def find_agent(label: str = DEFAULT_LABEL, config: Path | None = None) -> Agent:
    """The agent of that label: with `config` if given, else the TOML its plist names, else the default one.

    Raises:
        UsageError: `label` cannot be one.
    """
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"{label!r} cannot be a launchd label.",
            hint="Letters, digits, dots and hyphens, such as org.example.llm.",
        )
    if config is not None:
        return Agent(label, config.expanduser().absolute())
    agent = Agent(label, default_config_file(label))
    named = _config_argument(installed_plist(agent) or {})
    return Agent(label, Path(named)) if named else agent


def installed_plist(agent: Agent) -> dict[str, Any] | None:
    """The plist that lies in LaunchAgents, or None where there is none or it cannot be read as one."""
    try:
        found = plistlib.loads(agent.plist.read_bytes())
    except (OSError, plistlib.InvalidFileException, ExpatError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def program(agent: Agent) -> list[str]:
    """The command that launchd runs.

    The interpreter is the environment's own path, unresolved: resolved, it would be the base Python, which
    knows no pensieved, and an upgrade of that base moves it.
    """
    return [sys.executable, "-m", "pensieved", "run", "--config", str(agent.config)]


def _config_argument(plist: dict[str, Any]) -> str | None:
    arguments = plist.get("ProgramArguments")
    if not isinstance(arguments, list) or "--config" not in arguments[:-1]:
        return None
    return str(arguments[arguments.index("--config") + 1])
