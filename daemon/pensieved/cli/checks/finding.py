"""The form in which `pensieved doctor` says something, on a terminal and in JSON."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"  # as it should be
    NOTE = "note"  # worth knowing; nothing to do
    WARNING = "warning"  # it works, but not well, or not for long
    PROBLEM = "problem"  # it does not work, or will not at the next start


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Args:
        check: what was looked at; from a fixed list, for scripts.
        level: how bad it is.
        what: a sentence.
        why: what follows from it, or where it comes from; may be empty.
        todo: what to do; empty where there is nothing to do.
    """

    check: str
    level: Level
    what: str
    why: str = ""
    todo: str = ""


class Report(msgspec.Struct, frozen=True):
    """All of it. `ok` means that there is no problem."""

    version: str
    ok: bool
    findings: list[Finding]
