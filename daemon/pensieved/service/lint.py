"""What is wrong with a property list, before launchd silently ignores it or answers 109."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pensieved.errors import ServiceError
from pensieved.service.plist_keys import DEAD, KEYS, PATHS
from pensieved.service.secrecy import holds_secret, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNEXPANDED = re.compile(r"(?:^|:)~|\$[A-Za-z_{(]")


def problems(plist: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with it, a sentence each; empty when it is right."""
    return [
        *(problem for key, value in plist.items() for problem in _key(key, value)),
        *_program(plist),
        *(problem for key, value in _paths(plist) for problem in _path(key, value)),
        *(problem for key, value in _strings(plist) for problem in _expansion(key, value)),
        *_secrets(plist),
    ]


def check(plist: Mapping[str, Any]) -> None:
    """Refuse a plist that is wrong.

    Raises:
        ServiceError: naming every problem.
    """
    if found := problems(plist):
        raise ServiceError(
            f"launchd would not understand the agent: {'; '.join(found)}.",
            hint="Change the path or variable that is named, and install again.",
        )


def _key(key: str, value: Any) -> Iterator[str]:
    if key in KEYS:
        yield from KEYS[key](key, value)
    elif key in DEAD:
        yield f"{key} is dead: launchd reads it no more (now {DEAD[key]})"
    else:
        lower = {known.lower(): known for known in KEYS}
        near = difflib.get_close_matches(key.lower(), lower, n=1)
        yield f"{key} is no key of launchd's" + (f" (did you mean {lower[near[0]]}?)" if near else "")


def _program(plist: Mapping[str, Any]) -> Iterator[str]:
    if not plist.get("Label"):
        yield "Label is missing"
    arguments = plist.get("ProgramArguments")
    if "Program" not in plist and "BundleProgram" not in plist:
        if not isinstance(arguments, list) or not arguments:
            yield "ProgramArguments is missing"
        elif not Path(str(arguments[0])).is_absolute():
            yield f"ProgramArguments[0] must be an absolute path, not {arguments[0]!r}"


def _paths(plist: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in PATHS:
        value = plist.get(key)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str):
                yield key, path


def _path(key: str, path: str) -> Iterator[str]:
    if not Path(path).is_absolute():
        yield f"{key} must be an absolute path, not {path!r}"


def _strings(plist: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every string that people expect a shell to expand."""
    yield from _paths(plist)
    arguments = plist.get("ProgramArguments")
    for number, argument in enumerate(arguments if isinstance(arguments, list) else []):
        yield f"ProgramArguments[{number}]", str(argument)
    yield from ((f"EnvironmentVariables.{name}", value) for name, value in _environment(plist).items())


def _expansion(key: str, value: str) -> Iterator[str]:
    if _UNEXPANDED.search(value):
        yield f"{key}: launchd expands neither ~ nor $ in {value!r}"


def _secrets(plist: Mapping[str, Any]) -> Iterator[str]:
    for name, value in _environment(plist).items():
        if is_secret(name, value):
            yield f"EnvironmentVariables.{name} is a secret, and everybody can read a plist"
    arguments = plist.get("ProgramArguments")
    for number, argument in enumerate(arguments if isinstance(arguments, list) else []):
        if holds_secret(str(argument)):
            yield f"ProgramArguments[{number}] holds a secret, and everybody can read a plist"


def _environment(plist: Mapping[str, Any]) -> dict[str, str]:
    found = plist.get("EnvironmentVariables")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
