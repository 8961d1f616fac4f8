"""Counting: pace, percentiles, rate."""

import threading

import pytest

from pensieved.http import ledger as module
from pensieved.http.ledger import RATE_SECONDS, Histogram, Ledger
from pensieved.http.record import RequestRecord


class Clock:
    """The monotonic clock, set by the test."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def answered(**fields):
    return RequestRecord(method="POST", route="/v1/messages", **{"output_tokens": 1, "status": 200, **fields})


def test_tokens_that_came_together_share_their_wait(clock):
    ledger = Ledger()
    pace = ledger.begin()
    pace.reached(2)
    clock.now += 0.4
    pace.reached(6)
    clock.now += 5
    pace.reached(8, decoded=False)
    clock.now += 0.02
    pace.reached(8)
    gaps = ledger.between_tokens
    assert sum(gaps.counts) == 4
    assert gaps.counts[gaps.bounds.index(0.1)] == 4
    assert gaps.sum == pytest.approx(0.4)
    assert ledger.output_tokens == 8
    ledger.end(pace)
    ledger.end(pace)
    assert sum(ledger.between_tokens.counts) == 4
    assert ledger.output_tokens == 8


def test_rate_is_that_of_the_last_seconds(clock):
    ledger = Ledger()
    paces = [ledger.begin(), ledger.begin()]
    for second in range(3 * RATE_SECONDS):
        clock.now = 1000.0 + second
        for pace in paces:
            pace.reached(7 * (second + 1))
    clock.now += 1
    assert ledger.tokens_per_second() == 14
    ledger.end(paces[0])
    assert ledger.tokens_per_second() == 14
    clock.now += RATE_SECONDS - 1
    assert ledger.tokens_per_second() == 1.4
    clock.now += 1
    assert ledger.tokens_per_second() == 0


def test_percentiles_of_the_latest_answers():
    ledger = Ledger()
    assert ledger.first_token_percentiles(0.5, 0.95) == [None, None]
    for hundredths in range(100):
        ledger.finish(answered(ttft_seconds=hundredths / 100))
    assert ledger.first_token_percentiles(0.5, 0.95) == [0.5, 0.95]


def test_bounds_belong_to_the_bucket_below_them():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.plus([histogram, histogram]).counts == [6, 3, 3]


def test_nothing_is_lost_between_threads():
    ledger = Ledger(["/v1/messages"])

    def work():
        for _ in range(50):
            pace = ledger.begin()
            for tokens in range(1, 41):
                pace.reached(tokens)
            ledger.end(pace)
            ledger.finish(answered(input_tokens=3, error="timeout"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.output_tokens == 8 * 50 * 40
    assert sum(ledger.between_tokens.counts) == 8 * 50 * 39
    assert ledger.requests() == {("/v1/messages", 200): 400}
    assert ledger.failures() == {"timeout": 400}
    assert (ledger.answers, ledger.failed, ledger.input_tokens) == (400, 400, 1200)
