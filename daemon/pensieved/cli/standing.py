"""How an agent stands: what lies on disk, what launchd has, what the daemon answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pensieved.cli.address import Address, address_of, local_url
from pensieved.cli.agents import agent_settings, listening_ports
from pensieved.cli.ask import ask
from pensieved.errors import ConfigError, ServiceError
from pensieved.service.agent import find_agent, installed_plist
from pensieved.service.domain import find_domain, find_job
from pensieved.service.launchctl import Launchctl
from pensieved.service.lint import problems
from pensieved.service.plist import held_port

if TYPE_CHECKING:
    from pensieved.cli.ask import Answer
    from pensieved.service.agent import Agent
    from pensieved.service.launchctl import Job


@dataclass(frozen=True)
class Standing:
    """One look at everything.

    Args:
        has_launchd: whether this system has launchctl.
        installed: whether the plist lies in LaunchAgents.
        switched_off: whether launchd's store of overrides has it disabled.
        job: as loaded, or None.
        url: where the daemon is, or should be; None where the TOML does not say.
        answer: the daemon's, or None.
        problems: what somebody should mend, a sentence each.
        key: one that the daemon lets in, where it asks for one.
    """

    agent: Agent
    has_launchd: bool
    installed: bool
    switched_off: bool
    job: Job | None
    url: str | None
    answer: Answer | None
    problems: list[str]
    key: str | None = field(default=None, repr=False)

    @property
    def awaits_request(self) -> bool:
        """Whether launchd listens in its place, and starts it with the first request."""
        return self.job is not None and self.job.pid is None and held_port(self.agent) is not None

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.awaits_request or (self.answer is not None and self.answer.ready)

    def agent_words(self) -> str:
        """The agent's state in one line."""
        label = self.agent.label
        if not self.has_launchd:
            return "none: this system has no launchd"
        if self.job is None:
            if not self.installed:
                return f"{label} is not installed"
            return f"{label} is {'switched off' if self.switched_off else 'installed, not loaded'}"
        facts = [f"pid {self.job.pid}"] if self.job.pid else []
        facts += [f"started {self.job.runs} times"] if self.job.runs and self.job.runs > 1 else []
        facts += [f"last end: {self.job.last_exit}"] if self.job.last_exit else []
        words = ", ".join(facts)
        return f"{label} is {self.job.state or 'loaded'}{f' ({words})' if words else ''}"


def look(label: str) -> Standing:
    """The agent `label` as it stands now. Never raises for what is broken: that is what it tells."""
    agent, launchctl, found = find_agent(label), Launchctl(), []
    job, switched_off, address = None, False, None
    plist = installed_plist(agent)
    if agent.plist.exists():
        found += [f"{agent.plist}: {problem}" for problem in _lint(plist)]
    if launchctl.exists:
        try:
            job = find_job(launchctl, label)
            switched_off = job is None and _switched_off(launchctl, label)
        except ServiceError as error:
            found.append(str(error))
    try:
        address = address_of(agent_settings(agent).server)
    except ConfigError as error:
        found.append(str(error))
    if job is not None and job.pid is None and held_port(agent) is not None:
        url, answer = address.url if address else None, None  # to ask it would be to start it
    else:
        url, answer = _reach(address, job)
    key = address.key if address else None
    return Standing(agent, launchctl.exists, agent.plist.exists(), switched_off, job, url, answer, found, key)


def _lint(plist: dict[str, object] | None) -> list[str]:
    return ["this is no property list"] if plist is None else problems(plist)


def _switched_off(launchctl: Launchctl, label: str) -> bool:
    return launchctl.is_disabled(find_domain(launchctl).name, label)


def _reach(address: Address | None, job: Job | None) -> tuple[str | None, Answer | None]:
    """Where the daemon answers: as the TOML says, else, where that was changed since, where its process listens."""
    if address is not None and (answer := ask(address)):
        return address.url, answer
    for port in sorted(listening_ports(job.pid)) if job and job.pid else ():
        other = Address(local_url("127.0.0.1", port), address.key if address else None)
        if answer := ask(other):
            return other.url, answer
    return address.url if address else None, None
