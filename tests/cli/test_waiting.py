"""When `install`, `start` and `restart` stop waiting, and with which words."""

from __future__ import annotations

import threading
import time

import pytest

from pensieved.cli import waiting
from pensieved.cli.address import Address
from pensieved.cli.waiting import Wait
from pensieved.errors import NotRunningError, PermanentError, ServiceError, TemporaryError
from pensieved.service.launchctl import Job
from support.daemon import wait_for
from support.fakestatus import FakeStatus

NOWHERE = Address("http://127.0.0.1:9")


class Agent:
    """Answers `job()` with the given ones, the last for ever."""

    def __init__(self, *jobs):
        self.jobs = list(jobs)

    def job(self):
        return self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(waiting, "_POLL", 0.01)
    monkeypatch.setattr(waiting, "_ASK_LAUNCHD", 0.01)


RUNNING = Job("gui/1", state="running", pid=1, runs=1)


def wait(agent, address, not_before=0.0, timeout=None):
    return Wait(agent, address, not_before, timeout).until_ready()


def test_progress_is_shown_until_it_is_ready(capsys):
    progress = {"stage": "downloading", "detail": "x", "done": 512, "total": 1024, "rate": 10.0, "eta": 51.2}
    with FakeStatus(phase="downloading", progress=progress) as daemon:

        def seen():
            """What it says now was asked for and shown: an answer takes two questions, so here two came after it."""
            asked = len(daemon.keys)
            wait_for(lambda: len(daemon.keys) >= asked + 6, 60, "questions")

        def go_on():
            seen()
            daemon.status |= {"phase": "warming", "progress": None}
            seen()
            daemon.status |= {"phase": "ready", "model": {"name": "m"}}
            daemon.ready = True

        helper = threading.Thread(target=go_on)
        helper.start()
        answer = wait(Agent(RUNNING), Address(f"http://127.0.0.1:{daemon.port}", "the-key-of-it"))
        helper.join()
        assert answer.report.model.name == "m"
        assert set(daemon.keys) == {"the-key-of-it"}
    shown = capsys.readouterr().err
    assert "downloading x: 512 B of 1.0 KiB, 10 B/s, 51s left" in shown
    assert "warming" in shown


def test_a_daemon_that_only_lacks_memory_is_not_waited_for():
    guard = {"available": 1, "margin": 2, "closed": True, "waiting": 0}
    with FakeStatus(phase="ready", memory={"daemon": 1, "engine": 1, "guard": guard}) as daemon:
        assert wait(Agent(RUNNING), Address(f"http://127.0.0.1:{daemon.port}")).report.short_of_memory


def test_the_daemon_that_is_being_replaced_does_not_count():
    with FakeStatus(phase="ready", started_at=time.time() - 10) as daemon:
        daemon.ready = True
        with pytest.raises(TemporaryError, match="not ready within"):
            wait(
                Agent(RUNNING),
                Address(f"http://127.0.0.1:{daemon.port}"),
                not_before=time.time(),
                timeout=0.2,
            )


def test_a_failure_that_waits_for_a_change_ends_it_at_once():
    failed = {"phase": "failed", "error": "Gated.", "hint": "Accept the licence."}
    with FakeStatus(**failed) as daemon, pytest.raises(PermanentError) as caught:
        wait(Agent(RUNNING), Address(f"http://127.0.0.1:{daemon.port}"))
    assert str(caught.value) == "Gated. Accept the licence."


def test_a_failure_that_is_retried_ends_it_only_when_it_lasts(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "_FAILING", 0.2)
    failed = {"phase": "failed", "error": "No network.", "retry_at": time.time() + 60}
    with FakeStatus(**failed) as daemon, pytest.raises(TemporaryError) as caught:
        wait(Agent(RUNNING), Address(f"http://127.0.0.1:{daemon.port}"))
    assert "tries again by itself, next in" in caught.value.hint
    assert capsys.readouterr().err.count("No network.") == 1


def test_one_that_crashes_again_and_again():
    jobs = [Job("gui/1", state="spawn scheduled", runs=n, last_exit="code 2") for n in (1, 2, 3, 4)]
    with pytest.raises(ServiceError, match=r"again and again as soon as it starts \(code 2\)"):
        wait(Agent(*jobs), NOWHERE)


def test_one_that_ended():
    with pytest.raises(ServiceError, match=r"has ended \(code 0\)"):
        wait(Agent(RUNNING, Job("gui/1", state="not running", runs=1, last_exit="code 0")), NOWHERE)


def test_one_that_was_unloaded_meanwhile():
    with pytest.raises(NotRunningError, match="not loaded any more"):
        wait(Agent(RUNNING, None), NOWHERE)


def test_one_that_runs_and_does_not_answer(monkeypatch):
    monkeypatch.setattr(waiting, "_SILENCE", 0.2)
    with pytest.raises(ServiceError, match="does not answer on http"):
        wait(Agent(RUNNING), NOWHERE)
