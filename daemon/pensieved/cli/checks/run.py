"""All checks, in the order in which they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved import __version__
from pensieved.cli.checks.configuration import access, configuration, folders
from pensieved.cli.checks.environment import environment, token
from pensieved.cli.checks.finding import Finding, Level, Report
from pensieved.cli.checks.service import agent, daemon
from pensieved.cli.checks.speed import speed
from pensieved.cli.checks.storage import cache, disk, model
from pensieved.cli.checks.system import system, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pensieved.cli.checks.scene import Scene

    Check = Callable[[Scene], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "system": system,
    "versions": versions,
    "configuration": configuration,
    "access": access,
    "environment": environment,
    "token": token,
    "folders": folders,
    "model": model,
    "cache": cache,
    "disk": disk,
    "agent": agent,
    "daemon": daemon,
    "speed": speed,
}
"""By the name under which it reports; `speed` reports as `blas`, too."""


def findings(scene: Scene, *, leave_out: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """What every check says, as soon as it is known."""
    for name, check in CHECKS.items():
        if name not in leave_out:
            yield from _guarded(name, check, scene)


def report(found: list[Finding]) -> Report:
    """The whole, for JSON."""
    return Report(__version__, all(finding.level is not Level.PROBLEM for finding in found), found)


def _guarded(name: str, check: Check, scene: Scene) -> Iterator[Finding]:
    try:
        yield from check(scene)
    except Exception as error:  # noqa: BLE001  a doctor must not die of what it is called for
        what = f"This check itself failed: {error!r}."
        yield Finding(name, Level.PROBLEM, what, todo="If the reason is not plain, report it as a bug.")
