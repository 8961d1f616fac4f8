"""The memory guard's decisions, on readings that a test makes up."""

import itertools

import mlx.core as mx
import pytest
from structlog.testing import capture_logs

from pensieved import machine
from pensieved.engine.memorylog import tell
from pensieved.engine.protocol import MemoryStats
from pensieved.engine.worker.memory import device
from pensieved.engine.worker.memory.device import (
    Cuda,
    Host,
    Reading,
    bound_reuse,
    device_memory,
    little_ahead,
)
from pensieved.engine.worker.memory.guard import INTERVAL, Guard
from pensieved.machine import Pressure, margin_for
from support.memories import Clock, settled

GIB = 1024**3
TOTAL, MARGIN = 64 * GIB, 2 * GIB


class Told:
    """A device that says what it is told to; what the prompt cache lets go of is there at once."""

    def __init__(self, available):
        self.total = TOTAL
        self.available = available
        self.pressure = Pressure.NORMAL

    def read(self):
        return Reading(self.available, self.pressure)


class Kept:
    """A prompt cache of plain numbers, in front of `device`."""

    def __init__(self, device, used):
        self.device = device
        self.used = used
        self.budget = 1 << 60

    def bound(self, budget):
        self.budget = budget
        if self.used > budget:
            self.device.available += self.used - budget
            self.used = budget


class Scene:
    """A guard, what it watches, and time."""

    def __init__(self, available, kept=0):
        settled()
        self.device = Told(available)
        self.kept = Kept(self.device, kept)
        self.clock = Clock()
        self.guard = Guard(self.device, MARGIN, self.kept, self.clock)

    def look(self, reserved=0, *, busy=True):
        self.clock.now += INTERVAL
        mx.clear_cache()  # what other tests left counts as available
        assert self.guard.due
        self.guard.look(reserved, busy=busy)
        return self.guard.closed


def test_it_looks_once_a_second():
    scene = Scene(10 * GIB)
    scene.look()
    assert not scene.guard.due
    scene.clock.now += INTERVAL / 2
    assert not scene.guard.due
    scene.clock.now += INTERVAL / 2
    assert scene.guard.due


def test_freed_buffers_go_first_then_the_prompt_cache_and_only_then_does_it_close():
    scene = Scene(MARGIN - 4096, kept=3 * GIB)
    assert not scene.look()
    assert scene.kept.used == 3 * GIB - 4096
    scene.device.available = 0
    assert not scene.look()
    assert scene.kept.used == GIB - 4096
    scene.device.available = 0
    assert scene.look()
    assert scene.kept.used == 0
    stats = scene.guard.stats(0, closed=True)
    assert (stats.sheds, stats.shed) == (3, 3 * GIB)


def test_freed_buffers_are_given_back_to_others():
    scene = Scene(MARGIN)
    scene.look()
    array = mx.zeros((6 << 20,))  # 24 MiB: more than is left alone, less than MLX's own bound on a CPU
    mx.eval(array)
    del array
    assert mx.get_cache_memory() >= 24 << 20
    scene.device.available = MARGIN - 1
    scene.clock.now += INTERVAL
    scene.guard.look(0, busy=True)
    assert mx.get_cache_memory() == 0
    assert scene.guard.stats(0, closed=False).shed >= 24 << 20


def test_what_is_short_is_not_kept():
    scene = Scene(MARGIN + GIB, kept=GIB)
    scene.look()
    assert scene.kept.budget == pytest.approx(2 * GIB, abs=1 << 25)
    scene.look(reserved=GIB // 2)
    assert scene.kept.budget == pytest.approx(3 * GIB // 2, abs=1 << 25)
    scene.look(reserved=8 * GIB)
    assert scene.kept.budget == GIB
    scene.device.available, scene.device.pressure = MARGIN + GIB, Pressure.WARNING
    scene.look()
    assert scene.kept.budget == 0


def test_it_opens_a_little_above_the_margin_while_requests_run():
    scene = Scene(MARGIN - 1)
    assert scene.look()
    scene.device.available = MARGIN + MARGIN // 16
    assert scene.look()
    scene.device.available = MARGIN + MARGIN // 8
    assert not scene.look()
    scene.device.available = MARGIN
    assert not scene.look()


def test_with_nothing_running_the_margin_alone_counts():
    scene = Scene(MARGIN - 1)
    assert scene.look(busy=False)
    scene.device.available = MARGIN
    assert not scene.look(busy=False)


def test_a_system_that_warns_gets_one_request_at_a_time():
    scene = Scene(20 * GIB, kept=GIB)
    scene.device.pressure = Pressure.WARNING
    assert scene.look()
    assert scene.kept.used == 0
    assert not scene.guard.has_room(1, 0, busy=True, shed=True)
    assert not scene.look(busy=False)
    assert scene.guard.has_room(1, 0, busy=False, shed=True)
    scene.device.pressure = Pressure.CRITICAL
    assert scene.look(busy=False)
    assert not scene.guard.has_room(1, 0, busy=False, shed=True)
    scene.device.pressure = Pressure.NORMAL
    assert not scene.look()


def test_room_is_what_is_left_when_all_that_run_have_got_theirs():
    scene = Scene(MARGIN + 3 * GIB)
    scene.look()
    assert scene.guard.has_room(GIB, 2 * GIB - (1 << 25), busy=True, shed=False)
    assert not scene.guard.has_room(GIB, 2 * GIB + (1 << 25), busy=True, shed=False)


def test_what_a_request_is_reserved_is_no_longer_the_prompt_caches():
    scene = Scene(MARGIN + 3 * GIB)
    scene.look()
    assert scene.kept.budget == pytest.approx(3 * GIB, abs=1 << 25)
    assert scene.guard.has_room(2 * GIB, 0, busy=False, shed=False)
    assert scene.kept.budget == pytest.approx(GIB, abs=1 << 25)


def test_the_prompt_cache_makes_room_where_that_is_enough_and_is_not_emptied_in_vain():
    scene = Scene(MARGIN + GIB, kept=2 * GIB)
    scene.look()
    assert not scene.guard.has_room(2 * GIB, 0, busy=True, shed=False)
    assert not scene.guard.has_room(4 * GIB, 0, busy=True, shed=True)
    assert scene.kept.used == 2 * GIB
    assert scene.guard.has_room(2 * GIB, 0, busy=True, shed=True)
    assert GIB / 2 < scene.kept.used <= GIB


def test_nearly_out_is_half_of_the_margin():
    scene = Scene(MARGIN // 2)
    scene.look()
    assert not scene.guard.nearly_out
    scene.device.available -= 1
    scene.look()
    assert scene.guard.nearly_out


@pytest.mark.parametrize(
    ("total", "margin"),
    [
        (GIB, GIB // 8),
        (4 * GIB, GIB // 2),
        (8 * GIB, GIB // 2),
        (16 * GIB, GIB),
        (32 * GIB, 2 * GIB),
        (512 * GIB, 2 * GIB),
    ],
)
def test_the_margin_follows_the_machine(total, margin):
    assert margin_for(total) == margin


def test_cuda_says_what_is_free_and_where_it_stopped_saying_so_our_own_part_is_taken_off():
    facts, used, now = {"free_memory": 80 * GIB, "total_memory": 100 * GIB}, [GIB], [0.0]
    device = Cuda(lambda: facts, lambda: used[0], lambda: now[0])
    assert device.total == 100 * GIB
    assert device.read() == Reading(80 * GIB)
    used[0] = 11 * GIB
    assert device.read() == Reading(70 * GIB)
    now[0] += 2
    assert device.read() == Reading(70 * GIB)
    facts["free_memory"] = 60 * GIB
    now[0] += 2
    assert device.read() == Reading(60 * GIB)
    used[0] = 10 * GIB
    assert device.read() == Reading(61 * GIB)


def test_a_slow_driver_is_seldom_asked():
    now, asked = [0.0], []

    def facts():
        asked.append(now[0])
        now[0] += 0.04
        return {"free_memory": GIB, "total_memory": GIB}

    device = Cuda(facts, lambda: 0, lambda: now[0])
    for _ in range(10_000):
        now[0] += 0.05
        device.read()
    assert 0.04 * len(asked) < 0.0015 * now[0]


def test_metal_has_a_working_set():
    whole = Host()
    part = Host(most=settled() + (1 << 20))
    assert part.total < whole.total
    assert part.read().available <= 1 << 20 < whole.read().available


def test_a_system_that_tells_of_pressure_may_have_its_memory_full(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 0)
    assert Host(told=False).read().available == 0
    assert Host(told=True).read().available > GIB


def test_a_cpu_has_the_machines_memory():
    device = device_memory(mx.Device(mx.cpu))
    assert 0 < device.read().available <= device.total


def test_reuse_is_bounded_and_a_lower_bound_stays():
    first = mx.set_cache_limit(1 << 40)
    try:
        for weights, limit in ((GIB, 1 << 27), (8 * GIB, 1 << 29), (64 * GIB, GIB)):
            mx.set_cache_limit(1 << 40)
            bound_reuse(weights)
            assert mx.set_cache_limit(1 << 40) == limit
        mx.set_cache_limit(1 << 20)
        bound_reuse(GIB)
        assert mx.set_cache_limit(first) == 1 << 20
    finally:
        mx.set_cache_limit(first)


@pytest.mark.parametrize(("closely", "more"), [(True, 0), (False, device.AHEAD)])
def test_what_is_launched_ahead_is_bounded_only_meanwhile(monkeypatch, closely, more):
    monkeypatch.setattr(device, "on_cuda", lambda: True)
    layers = [[mx.zeros(100)], [mx.zeros(50), mx.zeros(100)]]  # 1000 bytes, not made yet
    first = mx.set_memory_limit(1 << 40)
    try:
        held = mx.get_active_memory()
        with little_ahead(layers, closely=closely):
            bound = mx.set_memory_limit(1 << 30)
        assert bound == held + 1000 + more
        assert mx.set_memory_limit(first) == 1 << 40
    finally:
        mx.set_memory_limit(first)


def test_the_log_says_each_change_once_with_its_bytes():
    states = [
        MemoryStats(1000, 160),
        MemoryStats(50, 160, sheds=2, shed=30),
        MemoryStats(40, 160, closed=True, waiting=3, sheds=2, shed=30),
        MemoryStats(40, 160, closed=True, waiting=3, sheds=3, shed=39),
        MemoryStats(500, 160, sheds=3, shed=39),
    ]
    with capture_logs() as logs:
        for before, now in itertools.pairwise(states):
            tell(before, now)
    assert [line["event"] for line in logs] == [
        "memory.shed",
        "memory.closed",
        "memory.shed",
        "memory.opened",
    ]
    assert [line["log_level"] for line in logs] == ["info", "warning", "debug", "info"]
    assert [line["freed"] for line in logs if line["event"] == "memory.shed"] == [30, 9]
    assert (logs[1]["available"], logs[1]["safety_margin"], logs[1]["waiting"]) == (40, 160, 3)
