"""The status board: what waiters and listeners see."""

from __future__ import annotations

import threading

import pytest

from pensieved.backoff import Backoff
from pensieved.control.limits import MOST, max_concurrent
from pensieved.control.status import Phase, StatusBoard
from pensieved.settings.schema import ServerSettings


def test_since_changes_with_the_phase_only():
    board = StatusBoard()
    board.enter(Phase.LOADING)
    first = board.current
    board.enter(Phase.LOADING, detail="more")
    assert board.current.since == first.since
    assert board.current.detail == "more"
    board.enter(Phase.READY)
    assert board.current.since >= first.since
    assert board.current.detail == ""


def test_nothing_follows_draining():
    board = StatusBoard()
    board.enter(Phase.DRAINING)
    board.enter(Phase.READY)
    assert board.current.phase is Phase.DRAINING


def test_waiters_wake_and_listeners_hear_every_status():
    board = StatusBoard()
    heard, woken = [], []
    board.subscribe(lambda status: heard.append(status.phase))
    waiter = threading.Thread(target=lambda: woken.append(board.wait(lambda s: s.phase is Phase.READY, 30)))
    waiter.start()
    board.enter(Phase.LOADING)
    board.enter(Phase.READY)
    waiter.join(30)
    assert heard == [Phase.LOADING, Phase.READY]
    assert woken == [board.current]


def test_a_wait_that_is_in_vain_returns_the_latest():
    board = StatusBoard()
    assert board.wait(lambda status: status.phase is Phase.READY, 0.01).phase is Phase.IDLE


def test_backoff_doubles_up_to_its_ceiling_and_resets():
    backoff = Backoff(first=1.0, longest=8.0)
    delays = [backoff.next() for _ in range(6)]
    for delay, ceiling in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert ceiling / 2 <= delay <= ceiling
    backoff.reset()
    assert backoff.next() <= 1


@pytest.mark.parametrize(("gib", "slots"), [(2, 2), (8, 14), (16, 30), (64, MOST)])
def test_auto_concurrency_follows_the_memory(monkeypatch, gib, slots):
    class Memory:
        total = gib * 1024**3

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    assert max_concurrent(ServerSettings()) == slots
    assert max_concurrent(ServerSettings(max_concurrent=5)) == 5
