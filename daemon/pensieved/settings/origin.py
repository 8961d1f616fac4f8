"""Where a daemon's configuration comes from: to be read again, and to be watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pensieved.settings.load import config_file, load_settings
from pensieved.settings.paths import default_config_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pensieved.settings.schema import Settings


class ConfigOrigin:
    """The command line and the TOML of one daemon.

    A TOML that was there once is missed when it is gone, instead of being replaced by defaults: deleting a file is no
    way to ask for the starter model. One that is not there yet is read as soon as it is.

    Args:
        flags: of the command line, as `load_settings` takes them.
        config: the TOML named there.
    """

    def __init__(self, flags: Mapping[str, Any] | None = None, config: Path | None = None) -> None:
        self._flags = flags
        self._config = config_file(config)

    @property
    def path(self) -> Path | None:
        """The TOML, or None as long as there is none."""
        return self._config

    def load(self) -> Settings:
        """Read it all again. Raises ConfigError."""
        self._config = self._config or config_file(None)
        return load_settings(self._flags, self._config)

    def files(self, settings: Settings) -> tuple[Path, ...]:
        """What to watch: the TOML, and the file of keys that it names."""
        keys = settings.server.api_keys_file
        return (self._config or default_config_file(), *((keys,) if keys else ()))
