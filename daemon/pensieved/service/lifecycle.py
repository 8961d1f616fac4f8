"""The ways from one state of an agent to another, with launchd's races in mind.

`bootout` returns before the job is gone, and for a while after it is gone `bootstrap` answers 5: so every way
polls `print` until launchd says 113, and tries a bootstrap again for some seconds. Which codes are harmless
depends on the step; they are named where they are expected.
"""

from __future__ import annotations

import plistlib
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from xml.parsers.expat import ExpatError

from pensieved.errors import NotRunningError, ServiceError
from pensieved.service import fingerprint, plist
from pensieved.service.domain import find_domain, find_job
from pensieved.service.exitcodes import MEANINGS, Code

if TYPE_CHECKING:
    from pensieved.service.agent import Agent
    from pensieved.service.domain import Domain
    from pensieved.service.launchctl import Job, Launchctl, Outcome

_POLL = 0.2
_DRAIN = 30.0  # seconds a bootout may take where the plist says nothing of its own
_DRAIN_MARGIN = 10.0
_BOOTSTRAP = 15.0
_RETRIED = frozenset({Code.IO, Code.IN_PROGRESS, Code.ALREADY})


class Clock(Protocol):
    """Time, which tests replace."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


class Change(StrEnum):
    """What was done to make launchd run the agent as declared."""

    NONE = "unchanged"  # loaded, as declared, running
    STARTED = "started"  # loaded as declared, but was not running
    LOADED = "loaded"  # was not loaded
    RELOADED = "reloaded"  # was loaded with something else
    RESTARTED = "restarted"  # same plist, new process


@dataclass(frozen=True)
class Lifecycle:
    """An agent in the hands of launchctl."""

    launchctl: Launchctl
    agent: Agent
    clock: Clock = time

    def job(self) -> Job | None:
        """The agent as loaded now, or None."""
        return find_job(self.launchctl, self.agent.label)

    def install(self, content: bytes) -> Change:
        """Make `content` the agent's plist and have it loaded and running; does nothing where it is so already.

        Raises:
            ServiceError: launchd refuses; the sentence says why and what to do.
        """
        domain, job = find_domain(self.launchctl), self.job()
        if not self.agent.plist.exists() or self.agent.plist.read_bytes() != content:
            plist.write(self.agent, content)
        if job is None:
            self._load(domain)
            return Change.LOADED
        if job.ending or job.domain != domain.name or not fingerprint.is_loaded(self.agent, content):
            self._unload(job)
            self._load(domain)
            return Change.RELOADED
        return self._awake(job)

    def start(self) -> Change:
        """Load the plist as it lies there, or start what is loaded.

        Raises:
            NotRunningError: nothing is installed.
            ServiceError: the plist is none any more, or launchd refuses.
        """
        self._read_plist()
        job = self.job()
        if job and not job.ending:
            return self._awake(job)
        if job:
            self._unload(job)
        self._load(find_domain(self.launchctl))
        return Change.LOADED

    def stop(self) -> bool:
        """Unload it and wait until it is gone; False where it was not loaded. The next login loads it again."""
        job = self.job()
        if job is not None:
            self._unload(job)
        return job is not None

    def restart(self) -> Change:
        """A new process; the plist is read again where it or the interpreter changed."""
        content = self._read_plist()
        job = self.job()
        if job is None:
            self._load(find_domain(self.launchctl))
            return Change.LOADED
        if job.ending or not fingerprint.is_loaded(self.agent, content):
            self._unload(job)
            self._load(find_domain(self.launchctl))
            return Change.RELOADED
        patience = self._drain_seconds()
        target = f"{job.domain}/{self.agent.label}"
        self._must(self.launchctl.run("kickstart", "-k", target, timeout=patience), {Code.ALREADY})
        return Change.RESTARTED

    def uninstall(self) -> bool:
        """Unload, remove the plist, clear what `launchctl disable` left; False where there was nothing."""
        stopped = self.stop()
        existed = self.agent.plist.exists()
        self.agent.plist.unlink(missing_ok=True)
        fingerprint.forget(self.agent)
        if stopped or existed:
            target = find_domain(self.launchctl).target(self.agent.label)
            self._must(self.launchctl.run("enable", target), {Code.NO_SERVICE})
        return stopped or existed

    def _awake(self, job: Job) -> Change:
        """Loaded as it should be: running already, or kicked."""
        if job.pid is not None:
            return Change.NONE
        target = f"{job.domain}/{self.agent.label}"
        self._must(self.launchctl.run("kickstart", target), {Code.ALREADY, Code.IN_PROGRESS})
        return Change.STARTED

    def _load(self, domain: Domain) -> None:
        """Enable and bootstrap, again and again while launchd is still busy with the one before."""
        content = self.agent.plist.read_bytes()
        self._must(self.launchctl.run("enable", domain.target(self.agent.label)), set())
        deadline = self.clock.monotonic() + _BOOTSTRAP
        while not (outcome := self._bootstrap(domain)).ok:
            if outcome.code not in _RETRIED or self.clock.monotonic() >= deadline:
                raise self._refused(outcome, domain)
            job = self.launchctl.job(domain.name, self.agent.label)
            if job is not None and not job.ending:
                break  # somebody else was faster: a login, or launchctl by hand
            self.clock.sleep(_POLL)
        fingerprint.remember(self.agent, content)

    def _bootstrap(self, domain: Domain) -> Outcome:
        return self.launchctl.run("bootstrap", domain.name, str(self.agent.plist))

    def _refused(self, outcome: Outcome, domain: Domain) -> ServiceError:
        """Code 5 has three meanings; the store of overrides tells one of them apart."""
        if outcome.code == Code.IO and self.launchctl.is_disabled(domain.name, self.agent.label):
            meaning = MEANINGS[Code.DISABLED]
            return ServiceError(f"launchctl {outcome.verb}: {meaning.what}", hint=meaning.hint)
        return outcome.error()

    def _unload(self, job: Job) -> None:
        """Boot out, and wait until launchd has forgotten the job: requests in flight may finish meanwhile."""
        patience = self._drain_seconds()
        deadline = self.clock.monotonic() + patience
        target = f"{job.domain}/{self.agent.label}"
        outcome = self.launchctl.run("bootout", target, timeout=patience)
        while self.launchctl.job(job.domain, self.agent.label) is not None:
            if outcome.code not in {Code.OK, Code.NO_SUCH_PROCESS, Code.NO_SERVICE, *_RETRIED}:
                raise outcome.error()
            if self.clock.monotonic() >= deadline:
                raise ServiceError(
                    f"The agent did not end within {patience:.0f} s.",
                    hint=f"`kill -9 {job.pid}` ends it." if job.pid else "Log out and in again.",
                )
            self.clock.sleep(_POLL)
        fingerprint.forget(self.agent)

    def _drain_seconds(self) -> float:
        """How long an end may take: the plist's ExitTimeOut is what launchd itself waits before SIGKILL."""
        try:
            own = plistlib.loads(self.agent.plist.read_bytes()).get("ExitTimeOut", 0)
        except (OSError, ValueError, AttributeError, ExpatError, plistlib.InvalidFileException):
            own = 0
        return max(_DRAIN, own if isinstance(own, int) else 0) + _DRAIN_MARGIN

    def _read_plist(self) -> bytes:
        """The installed plist, as it lies there: what is changed by hand is the user's to change."""
        path = self.agent.plist
        try:
            content = path.read_bytes()
            plistlib.loads(content)
        except FileNotFoundError:
            raise NotRunningError(
                f"No agent {self.agent.label} is installed.",
                hint=f"`pensieved install --model-url URL --port N{self.agent.option}` installs it.",
            ) from None
        except (OSError, ValueError, ExpatError, plistlib.InvalidFileException) as error:
            raise ServiceError(
                f"{path} cannot be read as a property list: {error}.",
                hint=f"`pensieved install{self.agent.option}` writes it anew.",
            ) from None
        return content

    @staticmethod
    def _must(outcome: Outcome, harmless: set[Code]) -> None:
        if not outcome.ok and outcome.code not in harmless:
            raise outcome.error()
