"""What launchd has loaded, remembered, because it does not tell.

`kickstart -k` starts what was bootstrapped: a plist or an interpreter changed since then is not seen. So each
bootstrap leaves a note of both, and a restart compares. The note has pensieved's version too, so that `install`
after an upgrade replaces the daemon that still runs the old one.
"""

from __future__ import annotations

import hashlib
import os
import plistlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pensieved import __version__

if TYPE_CHECKING:
    from pensieved.service.agent import Agent


def fingerprint(content: bytes) -> str:
    """Of a plist, of the interpreter it names, and of pensieved, as they are now."""
    return hashlib.sha256(content + _interpreter(content) + __version__.encode()).hexdigest()


def remember(agent: Agent, content: bytes) -> None:
    """Note that launchd has just loaded `content`."""
    agent.loaded_note.parent.mkdir(parents=True, exist_ok=True)
    agent.loaded_note.write_text(fingerprint(content), encoding="ascii")


def forget(agent: Agent) -> None:
    """Note that nothing is loaded."""
    agent.loaded_note.unlink(missing_ok=True)


def is_loaded(agent: Agent, content: bytes) -> bool:
    """Whether what launchd loaded last is `content` with today's interpreter; False where nobody noted."""
    try:
        return agent.loaded_note.read_text(encoding="ascii") == fingerprint(content)
    except (OSError, UnicodeDecodeError):
        return False


def _interpreter(content: bytes) -> bytes:
    try:
        plist: dict[str, Any] = plistlib.loads(content)
        path = Path(str(plist["ProgramArguments"][0]))
        found = path.stat()
    except (OSError, ValueError, KeyError, IndexError, TypeError, plistlib.InvalidFileException):
        return b"unknown"
    return f"{os.path.realpath(path)} {found.st_ino} {found.st_mtime_ns} {found.st_size}".encode()
