"""What an engine that nobody asks gives back; the memory is real, the time is not."""

import mlx.core as mx
import pytest

from pensieved.engine.worker.memory import rest
from pensieved.engine.worker.memory.rest import REST, Rest

SIZE = 8 << 20


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(rest, "time", made)
    return made


def free_some():
    """Leave a freed buffer behind."""
    array = mx.zeros((SIZE,), dtype=mx.uint8)
    mx.eval(array)
    del array
    assert mx.get_cache_memory() >= SIZE


def test_what_is_free_goes_back_once_nobody_came_for_a_while(clock):
    resting = Rest()
    resting.look(busy=True)
    free_some()
    clock.now += REST - 1
    resting.look(busy=False)
    assert mx.get_cache_memory() >= SIZE  # whoever comes now finds it
    clock.now += 2
    resting.look(busy=False)
    assert mx.get_cache_memory() == 0


def test_whoever_comes_makes_it_wait_again(clock):
    resting = Rest()
    free_some()
    clock.now += REST - 1
    resting.look(busy=True)
    clock.now += REST - 1
    resting.look(busy=False)
    assert mx.get_cache_memory() >= SIZE
    clock.now += 2
    resting.look(busy=False)
    assert mx.get_cache_memory() == 0


def test_it_gives_once_until_there_was_something_to_do(clock):
    resting = Rest()
    clock.now += REST
    resting.look(busy=False)
    free_some()  # by nobody it knows of
    clock.now += REST
    resting.look(busy=False)
    assert mx.get_cache_memory() >= SIZE
    resting.look(busy=True)
    clock.now += REST
    resting.look(busy=False)
    assert mx.get_cache_memory() == 0
