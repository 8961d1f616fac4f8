"""Changing keys of the user's TOML: every comment, blank line and spelling of the rest stays as it is."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from pensieved.errors import ConfigError
from pensieved.settings.document import example_toml
from pensieved.settings.tomltext import line_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Changes = dict[str, "str | int"]
"""New values by dotted key, such as ``{"model.url": "org/name", "server.port": 8765}``."""


def changed_text(text: str, changes: Mapping[str, str | int]) -> str:
    """`text` with those keys set; the same text where they are so already.

    Args:
        text: a TOML; an empty one becomes the commented example with these keys active.
        changes: new values by dotted key, two parts each.

    Raises:
        ConfigError: `text` is not TOML, or has something else where a table must be.
    """
    if not text.strip():
        return _new_text(changes)
    try:
        for key, value in changes.items():
            section, name = key.split(".")
            text = _with_key(text, section, name, value)
    except TOMLKitError as error:
        raise ConfigError(f"The configuration is not TOML: {error}.") from None
    return text


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` in one step; a symbolic link stays one, and the file keeps its mode.

    Raises:
        ConfigError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o600
        descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(draft).replace(target)
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be written: {error.strerror}.") from None


def read_text(path: Path) -> str:
    """The content with its line endings as they are; empty where there is no file. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The configuration {path} cannot be read: {reason}.") from None


def _with_key(text: str, section: str, name: str, value: str | int) -> str:
    document = tomlkit.parse(text)
    table: Any = document.get(section)
    if table is None:
        table = document[section] = tomlkit.table()
    elif not hasattr(table, "get"):
        raise ConfigError(
            f"{section} must be a table in the configuration.", hint=f"Write it as [{section}]."
        )
    elif table.get(name) == value:
        return text
    new = name not in table
    table[name] = value
    if new and (inserted := _below_heading(text, section, name, value, document.unwrap())):
        return inserted
    return _same_newlines(text, tomlkit.dumps(document))


def _below_heading(
    text: str, section: str, name: str, value: str | int, wanted: dict[str, Any]
) -> str | None:
    """The new key as first of its table, or None where the table has no heading line of its own.

    The style-preserving editor appends, which is after a comment that stands above the next table and is about that.
    """
    lines = text.splitlines(keepends=True)
    number = line_of(text, [section])
    if number is None or not re.match(rf"\s*\[\s*{section}\s*\]", lines[number - 1]):
        return None
    ending = "\r\n" if lines[number - 1].endswith("\r\n") else "\n"
    heading = lines[number - 1].rstrip("\r\n") + ending
    lines[number - 1 : number] = [heading, f"{name} = {tomlkit.item(value).as_string()}{ending}"]
    changed = "".join(lines)
    try:
        return changed if tomlkit.parse(changed).unwrap() == wanted else None
    except TOMLKitError:
        return None


def _same_newlines(before: str, after: str) -> str:
    only_crlf = "\r\n" in before and before.count("\n") == before.count("\r\n")
    return re.sub(r"(?<!\r)\n", "\r\n", after) if only_crlf else after


def _new_text(changes: Mapping[str, str | int]) -> str:
    """The example, which has every key commented out at its default, with the changed ones active."""
    text, section, lines = example_toml(), "", []
    for line in text.splitlines():
        if match := re.match(r"\[(\w+)\]", line):
            section = match[1]
        key = re.match(r"# (\w+) = ", line)
        dotted = f"{section}.{key[1]}" if key else ""
        lines.append(
            f"{key[1]} = {tomlkit.item(changes[dotted]).as_string()}" if key and dotted in changes else line
        )
    return "\n".join(lines) + "\n"
