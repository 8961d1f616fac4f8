from dataclasses import dataclass, field

import pytest

from pensieved.engine.blame import FROM_OUTSIDE, OWN_DOING, Record, admissible


@dataclass
class Request:
    name: str
    record: Record = field(default_factory=Record)


class Engine:
    """Admits as the client does; dies when it meets a request named in `deadly`."""

    def __init__(self, names, deadly=()):
        self.live = [Request(name) for name in names]
        self.failed = []
        self.done = []
        self.deadly = deadly
        self.deaths = 0

    def death(self, weight=OWN_DOING):
        self.deaths += 1
        for request in self.live:
            request.record.bereaved(weight)
        self.failed += [each.name for each in self.live if each.record.guilty]
        self.live = [each for each in self.live if not each.record.guilty]

    def life(self, weight=OWN_DOING):
        """Until it dies or nothing is left to start."""
        while admitted := admissible(self.live):
            for request in admitted:
                request.record.submitted()
                request.record.taken = True
            if any(request.name in self.deadly for request in admitted):
                self.death(weight)
                return
            for request in admitted:
                request.record.progress()


def names(requests):
    return [request.name for request in requests]


def test_all_start_together_while_none_is_suspect():
    engine = Engine("abc")
    assert names(admissible(engine.live)) == ["a", "b", "c"]


def test_a_deadly_request_fails_alone_though_all_came_together():
    engine = Engine("abcd", deadly="c")
    for _ in range(5):
        engine.life()
    assert engine.failed == ["c"]
    assert all(each.record.progressed and not each.record.strikes for each in engine.live)
    assert engine.deaths == 2


def test_two_deadly_requests_fail_and_the_others_live():
    engine = Engine("abcdef", deadly="be")
    for _ in range(8):
        engine.life()
    assert sorted(engine.failed) == ["b", "e"]
    assert names(engine.live) == ["a", "c", "d", "f"]


def test_running_streams_resume_before_a_suspect_is_tried():
    engine = Engine("ab")
    engine.life()
    bad = Request("x")
    bad.record.submitted()
    bad.record.taken = True
    engine.live.append(bad)
    engine.death()
    assert bad.record.strikes == OWN_DOING
    assert names(admissible(engine.live)) == ["a", "b"]
    engine.live[0].record.submitted()
    engine.live[1].record.submitted()
    assert admissible(engine.live) == []
    engine.live[0].record.progress()
    engine.live[1].record.progress()
    assert names(admissible(engine.live)) == ["x"]


def test_nobody_joins_a_trial_and_newcomers_do_not_delay_it():
    engine = Engine("a", deadly="a")
    engine.life()
    engine.live.append(Request("new"))
    (suspect,) = admissible(engine.live)
    assert suspect.name == "a"
    suspect.record.submitted()
    assert admissible(engine.live) == []
    suspect.record.progress()
    assert names(admissible(engine.live)) == ["new"]


@pytest.mark.parametrize(("weight", "deaths"), [(OWN_DOING, 2), (FROM_OUTSIDE, 32)])
def test_deaths_until_a_request_fails(weight, deaths):
    engine = Engine("a", deadly="a")
    for count in range(1, deaths + 1):
        engine.life(weight)
        assert engine.failed == (["a"] if count == deaths else [])


def test_progress_clears_strikes():
    record = Record(strikes=1.5)
    record.submitted()
    record.progress()
    record.bereaved(OWN_DOING)
    assert record.strikes == 0


def test_a_request_that_was_waiting_is_not_struck():
    record = Record()
    record.bereaved(OWN_DOING)
    assert record.strikes == 0


def test_a_request_that_the_engine_had_not_read_is_not_convicted_by_its_deaths():
    request = Request("late")
    for _ in range(4):
        request.record.submitted()
        request.record.bereaved(OWN_DOING)
    assert not request.record.suspect
    request.record.submitted()
    request.record.taken = True
    request.record.bereaved(OWN_DOING)
    assert request.record.suspect


def test_an_acknowledgement_counts_for_one_life_only():
    request = Request("again")
    request.record.submitted()
    request.record.taken = True
    request.record.bereaved(OWN_DOING)
    request.record.submitted()
    request.record.bereaved(OWN_DOING)
    assert not request.record.guilty
