"""What the checks look at, gathered once: which TOML counts, what it says, what launchd has, what the daemon answers.

Everything may be broken, so nothing here raises: what cannot be had is None, with the error kept where it says why.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pensieved.cli.address import Address, local_url
from pensieved.cli.agents import environment_of
from pensieved.cli.ask import ask
from pensieved.errors import PensievedError, ServiceError
from pensieved.service.agent import find_agent, installed_plist
from pensieved.service.domain import find_job
from pensieved.service.launchctl import Launchctl
from pensieved.settings.keys import api_keys
from pensieved.settings.load import CONFIG_VARIABLE, config_file, load_settings, salvaged_settings

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.cli.ask import Answer
    from pensieved.service.agent import Agent
    from pensieved.service.launchctl import Job
    from pensieved.settings import Settings


@dataclass(frozen=True)
class Scene:
    """This machine, as far as pensieved is concerned.

    Args:
        agent: of the label asked for, installed or not.
        launchctl: of this system, or one that does not exist.
        job: the agent as loaded.
        job_error: why launchd does not tell.
        config: the TOML that counts, or None.
        wins: why it is that one.
        settings: what is legible of it.
        config_error: why not all of it is.
        environment: in which the daemon lives: the installed agent's, else this shell's.
        address: where the daemon should answer.
        answer: the daemon's.
    """

    agent: Agent
    launchctl: Launchctl
    job: Job | None
    job_error: ServiceError | None
    config: Path | None
    wins: str
    settings: Settings
    config_error: PensievedError | None
    environment: dict[str, str] = field(repr=False)
    address: Address = field(repr=False)
    answer: Answer | None

    @property
    def installed(self) -> bool:
        """Whether there is an agent's plist."""
        return self.agent.plist.exists()


def look_around(label: str, config: Path | None) -> Scene:
    """Gather it.

    Args:
        label: of the agent that is meant.
        config: the TOML named on the command line.

    Raises:
        UsageError: `label` cannot be one.
    """
    agent, launchctl = find_agent(label), Launchctl()
    plist = installed_plist(agent) or {}
    chosen, wins = _chosen(agent, config)
    job, job_error = _job(launchctl, label)
    agents_own = {str(name): str(value) for name, value in plist.get("EnvironmentVariables", {}).items()}
    environment = agents_own if plist and config is None else dict(os.environ)
    with environment_of(environment):
        settings, error = _settings(chosen)
    address = _address(settings)
    held = job is not None and job.pid is None  # a look at the port would start what launchd holds it for
    answer = None if held or not settings.server.port else ask(address)
    return Scene(
        agent, launchctl, job, job_error, chosen, wins, settings, error, environment, address, answer
    )


def _chosen(agent: Agent, config: Path | None) -> tuple[Path | None, str]:
    if config is not None:
        return config.expanduser().absolute(), "named on the command line"
    if agent.plist.exists():
        return agent.config, f"the installed agent {agent.label} reads it"
    if os.environ.get(CONFIG_VARIABLE):
        return config_file(), f"${CONFIG_VARIABLE} names it"
    return config_file(), "the default place"


def _settings(config: Path | None) -> tuple[Settings, PensievedError | None]:
    try:
        return load_settings(config=config), None
    except PensievedError as error:
        return salvaged_settings(config=config), error


def _job(launchctl: Launchctl, label: str) -> tuple[Job | None, ServiceError | None]:
    if not launchctl.exists:
        return None, None
    try:
        return find_job(launchctl, label), None
    except ServiceError as error:
        return None, error


def _address(settings: Settings) -> Address:
    server = settings.server
    try:
        keys = api_keys(server)
    except PensievedError:  # the configuration's check says so
        keys = ()
    return Address(local_url(server.host, server.port), next(iter(keys), None))
