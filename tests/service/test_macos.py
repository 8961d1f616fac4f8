"""What only a Mac can tell: the real launchctl, with labels that are thrown away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pensieved.service import plist
from pensieved.service.agent import find_agent
from pensieved.service.domain import find_domain
from pensieved.service.environment import agent_environment
from pensieved.service.launchctl import LAUNCHCTL, Launchctl
from pensieved.service.lifecycle import Change, Lifecycle
from support.daemon import wait_for

pytestmark = pytest.mark.skipif(
    sys.platform != "darwin", reason="launchd is macOS's; elsewhere the stand-in answers in its place"
)


@pytest.fixture
def lifecycle(home, job):
    """An agent of a label that nobody else has, in a home that is thrown away; gone afterwards, whatever happens."""
    label = f"org.pensieved.test.{os.getpid()}"
    job.label, job.path = label, job.path.with_name(f"{label}.plist")
    made = Lifecycle(Launchctl(LAUNCHCTL), find_agent(label))
    yield made
    subprocess.run(
        [LAUNCHCTL, "bootout", find_domain(made.launchctl).target(label)], capture_output=True, check=False
    )


def content(job, *words):
    return job.plist(
        *words, KeepAlive={"SuccessfulExit": False}, ThrottleInterval=1, ExitTimeOut=5
    ).read_bytes()


def test_the_generated_plist_is_one_for_plutil(home):
    agent = find_agent()
    environment = agent_environment(os.environ, agent.label).variables
    plist.write(agent, plist.serialize(plist.build(agent, environment, drain_timeout=30, headless=False)))
    subprocess.run(["/usr/bin/plutil", "-lint", agent.plist], check=True, capture_output=True)


@pytest.mark.slow
def test_install_crash_restart_stop_and_start(lifecycle, job):
    assert lifecycle.install(content(job)) is Change.LOADED
    start = job.wait_starts(1)
    assert start["env"]["XPC_SERVICE_NAME"] == lifecycle.agent.label
    found = lifecycle.job()
    assert (found.state, found.pid, found.runs) == ("running", start["pid"], 1)
    assert lifecycle.install(content(job)) is Change.NONE

    os.kill(start["pid"], signal.SIGKILL)
    wait_for(lambda: len(job.starts) >= 2, 60, "launchd to start it again")
    assert lifecycle.restart() is Change.RESTARTED
    wait_for(lambda: len(job.starts) >= 3, 60, "the restart")

    assert lifecycle.install(content(job, "drain=1")) is Change.RELOADED
    wait_for(lambda: len(job.starts) >= 4, 60, "the reload")
    assert lifecycle.stop() is True
    assert lifecycle.job() is None
    assert lifecycle.start() is Change.LOADED
    wait_for(lambda: len(job.starts) >= 5, 60, "the start")
    assert lifecycle.uninstall() is True


@pytest.mark.slow
def test_the_store_of_overrides_can_be_read(lifecycle, job):
    target = find_domain(lifecycle.launchctl).target(lifecycle.agent.label)
    lifecycle.launchctl.run("disable", target)
    assert lifecycle.launchctl.is_disabled(find_domain(lifecycle.launchctl).name, lifecycle.agent.label)
    assert lifecycle.install(content(job)) is Change.LOADED
    assert not lifecycle.launchctl.is_disabled(find_domain(lifecycle.launchctl).name, lifecycle.agent.label)
