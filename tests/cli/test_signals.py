"""Signals as something that is waited for."""

import os
import signal

import pytest

from pensieved.cli.signals import EndSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_told_once(number):
    with EndSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.wait(60)
        assert not signals.wait(0)


def test_a_reload_is_none():
    reloads = []
    with EndSignals(lambda: reloads.append(1)) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.wait(0.1)
    assert reloads == [1]


def test_no_handler_in_python_needs_to_run():
    with EndSignals() as signals:
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(60)


def test_another_may_say_so_and_all_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with EndSignals() as signals:
        signals.raise_end()
        assert signals.wait(60)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
