"""Flags over environment over TOML over defaults, and errors that say where the wrong value stands."""

from __future__ import annotations

import contextlib
import difflib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from pensieved.errors import ConfigError
from pensieved.settings.keys import check_private
from pensieved.settings.paths import default_config_file
from pensieved.settings.schema import Settings
from pensieved.settings.tomltext import line_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

ENV_PREFIX = "PENSIEVED_"
CONFIG_VARIABLE = "PENSIEVED_CONFIG"


class _Environment(Settings, BaseSettings):
    """The schema as pydantic-settings wants it, to read ``PENSIEVED_MODEL__URL`` and its like."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid")


def config_file(explicit: Path | None = None) -> Path | None:
    """The TOML to read: the named one, else $PENSIEVED_CONFIG, else the default where it exists."""
    if explicit is not None:
        return explicit.expanduser()
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named).expanduser()
    default = default_config_file()
    return default if default.exists() else None


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Read, merge and validate the configuration.

    Args:
        flags: nested values from the command line, ``{"server": {"port": 8765}}``; None values are left out.
        config: the TOML named on the command line.

    Raises:
        ConfigError: with the file and line, the variable or the flag, the key, and the nearest known key.
    """
    path = config_file(config)
    return settings_from(read_config(path) if path else "", path, flags)


def settings_from(text: str, path: Path | None, flags: Mapping[str, Any] | None = None) -> Settings:
    """The same for a TOML text that is, or is about to be, the content of `path`; for errors that name it.

    Raises:
        ConfigError: as `load_settings` does.
    """
    toml = parse_config(text, path)
    _keep_private(toml, path)
    environment = read_environment()
    given = _without_none(flags or {})
    try:
        return Settings.model_validate(_merge(_merge(toml, environment), given))
    except ValidationError as error:
        origin = _Origin(given, environment, path, text)
        raise ConfigError("\n".join(origin.describe(e) for e in error.errors())) from None


def salvaged_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """What is legible of a configuration that may be wrong: each value that is right by itself, else its default."""
    path = config_file(config)
    values: dict[str, Any] = {}
    with contextlib.suppress(ConfigError):
        values = parse_config(read_config(path), path) if path else {}
    with contextlib.suppress(ConfigError):
        values = _merge(values, read_environment())
    values = _merge(values, _without_none(flags or {}))
    while True:
        try:
            return Settings.model_validate(values)
        except ValidationError as error:
            values = _without(values, {tuple(wrong["loc"][:2]) for wrong in error.errors()})


def read_config(path: Path) -> str:
    """The text of a TOML. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The configuration {path} cannot be read: {reason}.") from None


def parse_config(text: str, path: Path | None) -> dict[str, Any]:
    """The keys and values of a TOML, not yet validated. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: this is not TOML: {error}.") from None


def _keep_private(toml: dict[str, Any], path: Path | None) -> None:
    """Refuse keys in a TOML that others can read, with the command that mends it."""
    server = toml.get("server")
    if path is not None and isinstance(server, dict) and server.get("api_keys"):
        check_private(path)


def read_environment() -> dict[str, Any]:
    """What PENSIEVED_… variables set, not yet validated. Raises ConfigError."""
    for name in os.environ:
        section, separator, _ = name.removeprefix(ENV_PREFIX).partition("__")
        if name.startswith(ENV_PREFIX) and separator and section.lower() not in Settings.model_fields:
            raise ConfigError(f"{name}: there is no section {section.lower()!r}.{_nearest(section, ())}")
    try:
        return EnvSettingsSource(_Environment)()
    except SettingsError as error:
        raise ConfigError(f"The environment: {error}.") from None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: v for k, v in nested.items() if v is not None}


def _without(values: dict[str, Any], wrong: set[tuple[int | str, ...]]) -> dict[str, Any]:
    """The tables without the keys that are wrong."""
    kept = {name: table for name, table in values.items() if (name,) not in wrong}
    return {
        name: {key: value for key, value in table.items() if (name, key) not in wrong}
        if isinstance(table, dict)
        else table
        for name, table in kept.items()
    }


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both tables in one; where they meet in a leaf, `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if both else value
    return merged


def _nearest(key: str, location: tuple[int | str, ...]) -> str:
    """`` Did you mean …?`` for the known key closest to `key` beside `location`, or an empty string."""
    fields: Mapping[str, Any] = Settings.model_fields
    for part in location:
        fields = getattr(fields[str(part)].annotation, "model_fields", {}) if str(part) in fields else {}
    close = difflib.get_close_matches(key.lower(), fields, n=1, cutoff=0.5)
    known = f" Known keys: {', '.join(fields)}." if fields else ""
    return f" Did you mean {close[0]!r}?" if close else known


class _Origin:
    """Finds where a rejected value came from."""

    def __init__(
        self, flags: dict[str, Any], environment: dict[str, Any], path: Path | None, text: str
    ) -> None:
        self._flags = flags
        self._environment = environment
        self._path = path
        self._text = text

    def describe(self, error: ErrorDetails) -> str:
        location = error["loc"]
        key = ".".join(str(part) for part in location)
        if error["type"] == "extra_forbidden":
            problem = f"unknown key.{_nearest(str(location[-1]), location[:-1])}"
        else:
            given = "" if "api_keys" in location else f"; got {error['input']!r}"
            problem = f"{error['msg'].removeprefix('Value error, ')}{given}."
        return f"{self._where(location)}: {key}: {problem}"

    def _where(self, place: tuple[int | str, ...]) -> str:
        location = tuple(part for part in place if isinstance(part, str))  # a list is written as one
        if _holds(self._flags, location):
            return "--" + str(location[-1]).replace("_", "-")
        if _holds(self._environment, location):
            return ENV_PREFIX + "__".join(str(part).upper() for part in location)
        line = line_of(self._text, [str(part) for part in location])
        return f"{self._path}:{line}" if line else str(self._path)


def _holds(values: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
