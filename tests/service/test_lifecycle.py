"""The ways between states: on the stand-in where launchd's behaviour matters, scripted where time does."""

from __future__ import annotations

import os
import plistlib
import signal
import sys
import time
from dataclasses import replace

import pytest

from pensieved.errors import NotRunningError, ServiceError
from pensieved.service import fingerprint
from pensieved.service.agent import find_agent
from pensieved.service.domain import find_domain
from pensieved.service.launchctl import Launchctl, Outcome
from pensieved.service.lifecycle import Change, Lifecycle
from support.daemon import wait_for

pytestmark = pytest.mark.slow  # agents are processes

LABEL = "org.example.job"
UID = os.getuid()


@pytest.fixture
def lifecycle(launchd):
    return Lifecycle(Launchctl(), find_agent(LABEL))


@pytest.fixture
def content(job):
    """Bytes of a plist for the obedient program."""

    def make(*words, **keys):
        return job.plist(*words, KeepAlive={"SuccessfulExit": False}, **keys).read_bytes()

    return make


def test_install_twice_changes_nothing(lifecycle, content, job):
    assert lifecycle.install(content()) is Change.LOADED
    pid = job.wait_starts(1)["pid"]
    assert lifecycle.install(content()) is Change.NONE
    assert lifecycle.job().pid == pid
    assert len(job.starts) == 1


def test_another_plist_is_loaded_through_the_drain_window(launchd, lifecycle, content, job):
    launchd.configure(drain=1.5)
    lifecycle.install(content("drain=1"))
    job.wait_starts(1)
    assert lifecycle.install(content(EnvironmentVariables={"NEW": "1"})) is Change.RELOADED
    assert job.wait_starts(2)["env"]["NEW"] == "1"


def test_a_plist_changed_by_hand_is_written_and_loaded_anew(lifecycle, content, job):
    wanted = content()
    lifecycle.install(wanted)
    job.wait_starts(1)
    lifecycle.agent.plist.write_bytes(content(Nice=5))
    assert lifecycle.restart() is Change.RELOADED
    assert lifecycle.install(wanted) is Change.RELOADED
    assert lifecycle.agent.plist.read_bytes() == wanted
    job.wait_starts(3)


def test_after_an_upgrade_install_replaces_the_running_daemon(lifecycle, content, job, monkeypatch):
    lifecycle.install(content())
    job.wait_starts(1)
    monkeypatch.setattr(fingerprint, "__version__", "99.0")
    assert lifecycle.install(content()) is Change.RELOADED
    job.wait_starts(2)
    assert lifecycle.install(content()) is Change.NONE


def test_restart_kicks_what_is_unchanged_and_reloads_a_new_interpreter(lifecycle, job, tmp_path):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    plist = plistlib.loads(job.plist().read_bytes())
    plist["ProgramArguments"][0] = str(python)
    assert lifecycle.install(plistlib.dumps(plist)) is Change.LOADED
    first = job.wait_starts(1)["pid"]
    assert lifecycle.restart() is Change.RESTARTED
    assert job.wait_starts(2)["pid"] != first
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert lifecycle.restart() is Change.RELOADED
    job.wait_starts(3)


def test_stop_start_and_uninstall(launchd, lifecycle, content, job):
    lifecycle.install(content())
    job.wait_starts(1)
    assert lifecycle.stop() is True
    assert lifecycle.job() is None
    assert lifecycle.stop() is False
    assert lifecycle.start() is Change.LOADED
    job.wait_starts(2)
    assert lifecycle.start() is Change.NONE
    launchd.run("disable", f"gui/{UID}/{LABEL}")
    assert lifecycle.uninstall() is True
    assert lifecycle.job() is None
    assert not lifecycle.agent.plist.exists()
    assert launchd.store.overrides == {LABEL: False}
    assert lifecycle.uninstall() is False
    with pytest.raises(NotRunningError, match="No agent"):
        lifecycle.start()
    with pytest.raises(NotRunningError, match="No agent"):
        lifecycle.restart()


def test_one_that_ended_cleanly_is_kicked(launchd, lifecycle, content, job):
    lifecycle.install(content())
    job.wait_starts(1)
    launchd.run("stop", LABEL)
    wait_for(lambda: lifecycle.job().pid is None, 30, "its end")
    assert lifecycle.start() is Change.STARTED
    job.wait_starts(2)
    launchd.run("stop", LABEL)
    wait_for(lambda: lifecycle.job().pid is None, 30, "its end")
    assert lifecycle.install(content()) is Change.STARTED
    job.wait_starts(3)


def test_a_crash_is_launchds_business(lifecycle, content, job):
    lifecycle.install(content())
    os.kill(job.wait_starts(1)["pid"], signal.SIGKILL)
    job.wait_starts(2)
    assert lifecycle.job().last_exit == "signal Killed: 9"
    assert lifecycle.job().runs == 2


class Opening:
    """Time that passes as ever, and lets go of what ends only when `gate` is there."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, gate):
        self.gate = gate

    def sleep(self, seconds):
        self.gate.touch()
        time.sleep(seconds)


def test_start_while_it_is_still_ending_waits_for_the_end(launchd, lifecycle, content, job, tmp_path):
    gate = tmp_path / "gate"
    lifecycle.install(content(f"until={gate}", ExitTimeOut=60))
    job.wait_starts(1)
    assert launchd.run("bootout", f"gui/{UID}/{LABEL}").returncode == 36
    assert lifecycle.job().ending
    assert replace(lifecycle, clock=Opening(gate)).start() is Change.LOADED
    job.wait_starts(2)


@pytest.mark.parametrize("code", [112, 125])
def test_a_headless_machine_gets_the_user_domain(launchd, lifecycle, content, job, code):
    launchd.configure(graphical=False, no_session_code=code)
    assert find_domain(lifecycle.launchctl).headless
    assert lifecycle.install(content(LimitLoadToSessionType="Background")) is Change.LOADED
    job.wait_starts(1)
    assert lifecycle.job().domain == f"user/{UID}"
    assert lifecycle.stop() is True


def test_an_agent_from_a_headless_session_moves_to_the_screens_domain(launchd, lifecycle, content, job):
    launchd.configure(graphical=False)
    lifecycle.install(content(LimitLoadToSessionType="Background"))
    job.wait_starts(1)
    launchd.configure(graphical=True)
    assert lifecycle.install(content()) is Change.RELOADED
    assert lifecycle.job().domain == f"gui/{UID}"


def test_disabled_by_launchctl_is_enabled_and_by_the_user_is_told(launchd, lifecycle, content, job):
    launchd.run("disable", f"gui/{UID}/{LABEL}")
    assert lifecycle.install(content()) is Change.LOADED
    lifecycle.stop()
    launchd.store.switch_off(LABEL)
    with pytest.raises(ServiceError, match="switched off") as caught:
        lifecycle.start()
    assert "Login Items" in caught.value.hint


def test_a_plist_that_is_none_any_more(lifecycle, content):
    lifecycle.install(content())
    lifecycle.agent.plist.write_text("<plist")
    with pytest.raises(ServiceError, match="cannot be read as a property list"):
        lifecycle.restart()
    assert lifecycle.stop() is True


class Time:
    """A clock that a test reads in no time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Scripted(Launchctl):
    """Answers each verb with the next of its codes; the last one stays."""

    def __init__(self, **codes):
        super().__init__("/nowhere")
        self.codes = {verb.replace("_", "-"): list(given) for verb, given in codes.items()}
        self.calls = []

    def run(self, verb, *arguments, timeout=None):
        key = verb if verb != "print" or arguments[0].count("/") > 1 else "probe"
        self.calls.append(key)
        codes = self.codes.get(key, [0])
        code = codes.pop(0) if len(codes) > 1 else codes[0]
        text = (
            '\tdisabled services = {\n\t\t"org.example.job" => disabled\n\t}\n'
            if verb == "print-disabled"
            else ""
        )
        return Outcome(verb, code, text, "")


@pytest.fixture
def scripted(home):
    def make(**codes):
        return Lifecycle(Scripted(**codes), find_agent(LABEL), Time())

    return make


def test_bootstrap_is_tried_again_for_a_while_only(scripted):
    ways = scripted(print=[113], bootstrap=[5, 37, 5, 0])
    assert ways.install(b"x") is Change.LOADED
    assert ways.launchctl.calls.count("bootstrap") == 4
    ways = scripted(print=[113], bootstrap=[37])
    with pytest.raises(ServiceError, match="at it already"):
        ways.install(b"x")
    assert 14 < ways.clock.now < 17


def test_5_for_a_disabled_agent_says_disabled(scripted):
    with pytest.raises(ServiceError, match="switched off"):
        scripted(print=[113], bootstrap=[5]).install(b"x")


@pytest.mark.parametrize("code", [109, 119, 122, 134])
def test_other_codes_end_it_at_once(scripted, code):
    ways = scripted(print=[113], bootstrap=[code])
    with pytest.raises(ServiceError, match="launchctl bootstrap"):
        ways.install(b"x")
    assert ways.launchctl.calls.count("bootstrap") == 1


def test_somebody_else_was_faster(scripted):
    ways = scripted(print=[113, 113, 0], bootstrap=[5])
    assert ways.install(b"x") is Change.LOADED


def test_an_agent_that_does_not_end_is_told(scripted):
    ways = scripted(print=[0], bootout=[36])
    with pytest.raises(ServiceError, match="did not end within 40 s"):
        ways.stop()
    assert ways.clock.now >= 40


def test_the_plists_own_exit_timeout_is_waited_for(scripted):
    ways = scripted(print=[0], bootout=[0])
    ways.agent.plist.parent.mkdir(parents=True)
    ways.agent.plist.write_bytes(plistlib.dumps({"ExitTimeOut": 100}))
    with pytest.raises(ServiceError, match="within 110 s"):
        ways.stop()


@pytest.mark.parametrize("code", [3, 36, 113])
def test_bootout_of_what_is_already_going_is_no_error(scripted, code):
    assert scripted(print=[0, 0, 0, 113], bootout=[code]).stop() is True


def test_bootout_refused(scripted):
    with pytest.raises(ServiceError, match="session is ending"):
        scripted(print=[0], bootout=[124]).stop()


def test_a_user_without_any_domain(scripted):
    with pytest.raises(ServiceError, match="no domain for this user"):
        scripted(probe=[125, 112], print=[113]).install(b"x")


def test_a_probe_that_fails_otherwise_is_told(scripted):
    with pytest.raises(ServiceError, match="code 1"):
        scripted(probe=[1], print=[113]).install(b"x")
