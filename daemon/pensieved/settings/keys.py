"""API keys: where they may stand, and reading them from a file that only its owner can read."""

from __future__ import annotations

import shlex
import stat
from typing import TYPE_CHECKING

from pensieved.errors import ConfigError
from pensieved.settings.schema import check_api_key

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.settings.schema import ServerSettings

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def api_keys(server: ServerSettings) -> tuple[str, ...]:
    """Every key that is configured, from `api_keys` and from `api_keys_file`.

    Raises:
        ConfigError: the file cannot be read, can be read by others, or holds what is no key.
    """
    keys = [key.get_secret_value() for key in server.api_keys]
    if server.api_keys_file is not None:
        keys += _read(server.api_keys_file)
    return tuple(dict.fromkeys(keys))


def check_private(path: Path) -> None:
    """Refuse a file with keys that anybody but its owner can read or change.

    Raises:
        ConfigError: it can; says how to mend that. A file that is not there is not refused.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) and mode & _OTHERS:
        raise ConfigError(
            f"{path} holds API keys and others can get at it (mode {stat.S_IMODE(mode):04o}).",
            hint=f"Run: chmod 600 {shlex.quote(str(path))}",
        )


def _read(path: Path) -> list[str]:
    if not path.is_absolute():
        raise ConfigError(f"server.api_keys_file {str(path)!r} is relative.", hint="Write the whole path.")
    try:
        check_private(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"server.api_keys_file {path} cannot be read: {reason}.") from None
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    keys = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"server.api_keys_file {path} holds no key.", hint="Write one a line.")
    for number, key in keys:
        try:
            check_api_key(key)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}.") from None
    return [key for _, key in keys]
