"""Where files live by default, after each platform's own conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from pathlib import Path


def default_cache_dir() -> Path:
    """Prepared models: ~/Library/Caches/pensieved on macOS, ~/.cache/pensieved on Linux."""
    return platformdirs.user_cache_path("pensieved")


def default_config_file() -> Path:
    """The TOML that is read when none is named; it need not exist."""
    return platformdirs.user_config_path("pensieved") / "pensieved.toml"
