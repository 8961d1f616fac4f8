"""The agent's property list: the template filled in, checked, and written in one step."""

from __future__ import annotations

import os
import plistlib
import re
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pensieved.errors import ServiceError
from pensieved.service import lint
from pensieved.service.agent import installed_plist, program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pensieved.service.agent import Agent

_PLACEHOLDER = re.compile(r"@([A-Z_]+)@")
_AFTER_DRAIN = 10  # seconds that the engine's end and the last words need after `server.drain_timeout`
_MODE = 0o644  # launchd refuses (122) what others may write, and cannot read what is not for it


def build(
    agent: Agent,
    environment: Mapping[str, str],
    *,
    drain_timeout: float,
    headless: bool,
    held: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """The agent's property list.

    Args:
        agent: what is installed.
        environment: what the daemon finds in its environment, besides launchd's few variables.
        drain_timeout: `server.drain_timeout` in seconds; launchd kills ten seconds after it.
        headless: for a machine where nobody logs in at the screen: launchd loads agents without a session type
            only where there is a graphical session.
        held: host and port on which launchd itself listens, to start the daemon with the first request; not at login
            then, and not again after a crash, but with the next request.

    Raises:
        ServiceError: launchd would not understand it.
    """
    values: dict[str, Any] = {
        "LABEL": agent.label,
        "PROGRAM_ARGUMENTS": program(agent),
        "ENVIRONMENT": dict(environment),
        "HOME": str(Path.home()),
        "EXIT_TIMEOUT": round(drain_timeout) + _AFTER_DRAIN,
        "OUTPUT": str(agent.output),
    }
    filled: dict[str, Any] = _fill(template(), values)
    if headless:
        filled["LimitLoadToSessionType"] = "Background"
    if held is not None:
        del filled["RunAtLoad"], filled["KeepAlive"]  # either would start it at once
        filled["Sockets"] = {"http": {"SockNodeName": held[0], "SockServiceName": str(held[1])}}
    lint.check(filled)
    return filled


def template() -> dict[str, Any]:
    """packaging/launchd/org.pensieved.daemon.plist, which the package carries as agent.plist."""
    text = resources.files("pensieved.service").joinpath("agent.plist").read_bytes()
    loaded: dict[str, Any] = plistlib.loads(text)
    return loaded


def held_port(agent: Agent) -> int | None:
    """The port on which launchd listens for the installed agent, if it does."""
    entry = (installed_plist(agent) or {}).get("Sockets", {}).get("http", {})
    port = str(entry.get("SockServiceName", "")) if isinstance(entry, dict) else ""
    return int(port) if port.isdecimal() else None


def serialize(plist: Mapping[str, Any]) -> bytes:
    """XML, with the keys in the template's order: equal plists are equal bytes."""
    return plistlib.dumps(dict(plist), sort_keys=False)


def write(agent: Agent, content: bytes) -> None:
    """Put `content` in place: launchd sees the old file or the new one.

    Raises:
        ServiceError: the folder cannot be written.
    """
    try:
        agent.plist.parent.mkdir(parents=True, exist_ok=True)
        agent.output.parent.mkdir(parents=True, exist_ok=True)
        _replace(agent.plist, content)
    except OSError as error:
        raise ServiceError(
            f"{agent.plist} cannot be written: {error.strerror}.",
            hint="The folder and the file must belong to you; no sudo is needed.",
        ) from error


def differing(agent: Agent, wanted: Mapping[str, Any]) -> list[str]:
    """The keys in which the installed plist is not as wanted; all of them where there is none."""
    found = _leaves(installed_plist(agent) or {})
    return sorted({key for key, _ in found.items() ^ _leaves(wanted).items()})


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, str) and (match := _PLACEHOLDER.fullmatch(value)):
        return values[match[1]]
    return value


def _leaves(plist: Mapping[str, Any]) -> dict[str, str]:
    """Values by key path, one level deep into dictionaries."""
    flat: dict[str, str] = {}
    for key, value in plist.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": repr(item) for name, item in value.items()}
        else:
            flat[key] = repr(value)
    return flat


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
