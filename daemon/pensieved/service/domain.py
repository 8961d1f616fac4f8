"""In which of launchd's domains a user's agents live."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pensieved.errors import ServiceError
from pensieved.service.exitcodes import Code

if TYPE_CHECKING:
    from pensieved.service.launchctl import Job, Launchctl


@dataclass(frozen=True)
class Domain:
    """``gui/UID`` of somebody logged in at the screen, else ``user/UID``."""

    name: str

    @property
    def headless(self) -> bool:
        """Whether nobody is logged in at the screen."""
        return self.name.startswith("user/")

    def target(self, label: str) -> str:
        """How launchctl names an agent in it."""
        return f"{self.name}/{label}"


def find_domain(launchctl: Launchctl) -> Domain:
    """Probe gui/UID, then user/UID.

    Raises:
        ServiceError: this user has neither.
    """
    gui, user = _both()
    probe = launchctl.run("print", gui.name)
    if probe.ok:
        return gui
    if probe.code not in {Code.NO_DOMAIN, Code.NO_SESSION}:
        raise probe.error()
    second = launchctl.run("print", user.name)
    if second.ok:
        return user
    raise ServiceError(
        f"launchd has no domain for this user: neither {gui.name} nor {user.name}.",
        hint="Log in at the screen or over ssh as the user who shall own the agent; not through sudo or su.",
    )


def find_job(launchctl: Launchctl, label: str) -> Job | None:
    """The agent wherever it is loaded: one that was installed over ssh stays in user/UID when a session opens."""
    for domain in _both():
        if job := launchctl.job(domain.name, label):
            return job
    return None


def _both() -> tuple[Domain, Domain]:
    uid = os.getuid()
    return Domain(f"gui/{uid}"), Domain(f"user/{uid}")
