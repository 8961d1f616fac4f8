"""What `pensieved doctor` says of the agent, on the stand-in for launchd."""

import os
import plistlib

import pytest

from pensieved.cli.checks.finding import Level
from pensieved.cli.checks.scene import look_around
from pensieved.cli.checks.service import agent, daemon
from pensieved.service.agent import find_agent
from pensieved.service.launchctl import Launchctl
from pensieved.service.lifecycle import Lifecycle
from support.daemon import wait_for

pytestmark = pytest.mark.slow  # agents are processes

LABEL = "org.example.job"


@pytest.fixture
def lifecycle(launchd):
    return Lifecycle(Launchctl(), find_agent(LABEL))


@pytest.fixture
def installed(lifecycle, job):
    """An agent that runs an obedient program instead of a daemon."""
    lifecycle.install(job.plist(KeepAlive={"SuccessfulExit": False}).read_bytes())
    job.wait_starts(1)
    return lifecycle


def told():
    return {finding.what: finding for finding in agent(look_around(LABEL, None))}


def one(part):
    """The one finding that says `part`."""
    (found,) = [finding for what, finding in told().items() if part in what]
    return found


def test_nothing_is_installed(launchd):
    assert one("No agent org.example.job is installed").level is Level.NOTE


def test_it_runs(installed, job):
    assert one(f"pid {job.starts[0]['pid']}").level is Level.OK
    # its program is not the daemon, which is what `install` would have written
    assert "ProgramArguments" in one("differs from what this pensieved would write").what


def test_stopped_switched_off_gone(installed, launchd):
    installed.stop()
    assert (one("is installed and not loaded").level, len(told())) == (Level.WARNING, 2)
    launchd.run("disable", f"gui/{os.getuid()}/{LABEL}")
    assert one("is switched off").level is Level.PROBLEM
    launchd.run("enable", f"gui/{os.getuid()}/{LABEL}")
    installed.start()
    installed.agent.plist.unlink()
    assert one("is loaded, but its plist is gone").level is Level.WARNING


def test_a_daemon_that_ended(installed, job, launchd):
    launchd.run("stop", LABEL)
    wait_for(lambda: launchd.pid(LABEL) is None, 30, "its end")
    found = one("is loaded and not running")
    assert (found.level, "last end: code 0" in found.what) == (Level.WARNING, True)


def test_a_plist_that_was_changed_by_hand(installed, job):
    path = installed.agent.plist
    plist = plistlib.loads(path.read_bytes())
    path.write_bytes(plistlib.dumps(plist | {"KeepAlife": True, "ProgramArguments": ["/nowhere/python"]}))
    assert one("KeepAlife is no key of launchd's").level is Level.PROBLEM
    assert one("/nowhere/python, which the agent runs, is not there").level is Level.PROBLEM
    assert one("launchd runs what it loaded earlier").level is Level.WARNING
    path.write_text("not a plist")
    assert one("is no property list").level is Level.PROBLEM


def test_launchctl_that_does_not_work(launchd, tmp_path, monkeypatch):
    broken = tmp_path / "launchctl"
    broken.write_text("#!/bin/sh\nexit 77\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PENSIEVED_LAUNCHCTL", str(broken))
    assert one("launchctl print").level is Level.PROBLEM


def test_the_agents_own_toml_and_variables_count(installed, job, home):
    toml = home / "mine.toml"
    toml.write_text("[server]\nport = 0\n")
    words = {"ProgramArguments": ["/bin/sh", "-m", "pensieved", "run", "--config", str(toml)]}
    plist = plistlib.loads(installed.agent.plist.read_bytes()) | words
    plist["EnvironmentVariables"] = {"PENSIEVED_SERVER__MAX_QUEUED": "3", "PATH": "/x"}
    installed.agent.plist.write_bytes(plistlib.dumps(plist))
    scene = look_around(LABEL, None)
    assert (scene.config, scene.settings.server.max_queued) == (toml, 3)
    assert LABEL in scene.wins
    assert scene.environment["PATH"] == "/x"
    (found,) = daemon(scene)
    assert "the system chooses one" in found.what


def test_a_port_that_launchd_holds_is_not_knocked_at(installed, launchd, job):
    launchd.run("stop", LABEL)
    wait_for(lambda: launchd.pid(LABEL) is None, 30, "its end")
    plist = plistlib.loads(installed.agent.plist.read_bytes())
    plist["Sockets"] = {"http": {"SockNodeName": "127.0.0.1", "SockServiceName": "8765"}}
    installed.agent.plist.write_bytes(plistlib.dumps(plist))
    scene = look_around(LABEL, None)
    assert scene.answer is None
    (found,) = daemon(scene)
    assert (found.level, "launchd holds port 8765" in found.what) == (Level.OK, True)
    assert one("waiting for a request").level is Level.OK
