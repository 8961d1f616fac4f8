"""Where files live by default, after each platform's own conventions."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

DEFAULT_LABEL = "org.pensieved.daemon"
"""The launchd label of the agent that `pensieved install` makes when no other is named."""

LABEL_VARIABLE = "PENSIEVED_LABEL"
"""Set in the plist of every agent, to its own label."""

PROMPTS = "prompts"
"""Folder of the prompt cache, in the cache folder."""


def default_cache_dir() -> Path:
    """Prepared models: ~/Library/Caches/pensieved on macOS, ~/.cache/pensieved on Linux."""
    return platformdirs.user_cache_path("pensieved")


def default_config_file(label: str = DEFAULT_LABEL) -> Path:
    """The TOML that is read when none is named; it need not exist. Agents with a label of their own have their own."""
    stem = "pensieved" if label == DEFAULT_LABEL else label
    return platformdirs.user_config_path("pensieved") / f"{stem}.toml"


def default_log_file(label: str) -> Path:
    """The log of an agent: ~/Library/Logs/pensieved/LABEL.log on macOS."""
    return platformdirs.user_log_path("pensieved") / f"{label}.log"


def state_dir() -> Path:
    """Small files that pensieved remembers things in."""
    return platformdirs.user_state_path("pensieved")


def launch_agents_dir() -> Path:
    """Where launchd looks for a user's agents."""
    return Path.home() / "Library" / "LaunchAgents"


def launchd_label() -> str | None:
    """The label of the agent that this process is the main process of, else None.

    launchd sets XPC_SERVICE_NAME to the label; terminals have one too, their own, and hand it to all they start.
    """
    label = os.environ.get(LABEL_VARIABLE)
    return label if label and os.environ.get("XPC_SERVICE_NAME") == label else None
