"""What is counted of requests: the numbers behind /metrics and /v1/status.

Each number is kept once and here. A request is counted when it is over, from the very record that becomes its line
in the log; only tokens are counted while they come, since an answer may take an hour. What others count themselves
(slots, phases, engine restarts) is read from them when somebody asks.

These are plain integers rather than a metrics library's objects: what each token costs is a fraction of a microsecond (see
`Pace`), percentiles for people come from the same numbers, and the library is only imported where it is scraped.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pensieved.http.record import RequestRecord

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""From a cached prompt on a small model to the prefill of a hundred thousand tokens."""

BETWEEN_TOKENS = (
    0.002,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.5,
    10.0,
)
"""Dense from 500 to 5 tokens a second, where people feel differences; above are stalls and resumed streams."""

WHOLE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0)
"""From one token to the default of server.request_timeout."""

WAITING = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

OTHER = "other"
"""The route of whatever is asked for that is no route: clients choose those names, so they are no label."""

RATE_SECONDS = 10
_BROKEN = 500  # what the server says where an app raised before it said anything
_RECENT = 512  # answers that percentiles are taken from


class Histogram:
    """How often values fell between bounds. Not safe from threads by itself.

    Args:
        bounds: upper ends, ascending; what is above the last is counted too.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def plus(self, others: Sequence[Histogram]) -> Histogram:
        """A new one, with those of `others` (of the same bounds) added."""
        total = Histogram(self.bounds)
        total.counts = [
            sum(column) for column in zip(self.counts, *(one.counts for one in others), strict=True)
        ]
        total.sum = self.sum + sum(one.sum for one in others)
        return total


class Pace:
    """The tokens of one answer as they come. Written by the answer's thread alone, and so without a lock."""

    def __init__(self, ledger: Ledger) -> None:
        self.gaps = Histogram(BETWEEN_TOKENS)
        self.consumed = 0
        self.second = (0, 0)  # the second of the latest tokens, and how many came in it
        self._ledger = ledger
        self._last: float | None = None

    def reached(self, consumed: int, *, decoded: bool = True) -> None:
        """The answer has `consumed` tokens now.

        Several that came at once share the time since the ones before. Those that the daemon put there itself
        (`decoded` False) took none.
        """
        fresh = consumed - self.consumed
        if fresh <= 0:
            return
        self.consumed = consumed
        now = time.monotonic()
        if decoded:
            if self._last is not None:
                self.gaps.observe((now - self._last) / fresh, fresh)
            self._last = now
        second, tokens = self.second
        if second != int(now):
            self._ledger.note(self.second)
            second, tokens = int(now), 0
        self.second = (second, tokens + fresh)


class Ledger:
    """Counters of one app; safe from any thread.

    Args:
        routes: templates that may stand as a request's route; anything else is `OTHER`.
    """

    def __init__(self, routes: Collection[str] = ()) -> None:
        self.routes = frozenset(routes)
        self.answers = 0
        self.failed = 0
        self.input_tokens = 0
        self.cached_tokens = 0
        self.dropped_lines = 0
        self.canonicalised = 0
        self.queue_wait = Histogram(WAITING)
        self.first_token = Histogram(FIRST_TOKEN)
        self.whole = Histogram(WHOLE)
        self._gaps = Histogram(BETWEEN_TOKENS)
        self._generated = 0
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._failures: Counter[str] = Counter()
        self._paces: set[Pace] = set()
        self._first_tokens: deque[float] = deque(maxlen=_RECENT)
        self._seconds = [(0, 0)] * (RATE_SECONDS + 1)  # (second, tokens), a ring

    def begin(self) -> Pace:
        """An answer is about to be generated; `end` it."""
        pace = Pace(self)
        with self._lock:
            self._paces.add(pace)
        return pace

    def end(self, pace: Pace) -> None:
        """No more tokens of that answer; doing so again changes nothing."""
        with self._lock:
            if pace in self._paces:
                self._paces.remove(pace)
                self._gaps = self._gaps.plus([pace.gaps])
                self._generated += pace.consumed
                self._note(pace.second)

    def note(self, second: tuple[int, int]) -> None:
        """A second of the monotonic clock is over, with so many tokens of one answer."""
        with self._lock:
            self._note(second)

    def finish(self, record: RequestRecord) -> None:
        """Count a request that is over; one that was answered is known by its output tokens, be they none."""
        seconds = record.elapsed()
        with self._lock:
            route = record.route if record.route in self.routes else OTHER
            self._requests[route, record.status or _BROKEN] += 1
            if record.error is not None:
                self._failures[record.error] += 1
            if record.output_tokens is not None:
                self._answered(record, seconds)

    def requests(self) -> dict[tuple[str, int], int]:
        """How many are over, by route and status."""
        with self._lock:
            return dict(self._requests)

    def failures(self) -> dict[str, int]:
        """How many failed, by the kind of error: one of `RequestErrorKind`, or that the client went away."""
        with self._lock:
            return dict(self._failures)

    @property
    def between_tokens(self) -> Histogram:
        """Seconds between tokens, of finished answers and of those that go on."""
        with self._lock:
            return self._gaps.plus([pace.gaps for pace in self._paces])

    @property
    def output_tokens(self) -> int:
        """Tokens generated, those of answers that go on included."""
        with self._lock:
            return self._generated + sum(pace.consumed for pace in self._paces)

    def tokens_per_second(self) -> float:
        """Of all answers together, over the last `RATE_SECONDS` whole seconds."""
        now = int(time.monotonic())
        with self._lock:
            seconds = [*self._seconds, *(pace.second for pace in self._paces)]
        return sum(tokens for second, tokens in seconds if now - RATE_SECONDS <= second < now) / RATE_SECONDS

    def first_token_percentiles(self, *shares: float) -> list[float | None]:
        """Seconds to the first token that this share of the latest answers kept below; None where there were none."""
        with self._lock:
            latest = sorted(self._first_tokens)
        return [
            latest[min(len(latest) - 1, int(share * len(latest)))] if latest else None for share in shares
        ]

    def _answered(self, record: RequestRecord, seconds: float) -> None:
        self.answers += 1
        self.failed += record.error is not None
        self.input_tokens += record.input_tokens or 0
        self.cached_tokens += record.cached_tokens or 0
        self.dropped_lines += record.dropped_lines or 0
        self.canonicalised += bool(record.dropped_lines)
        if record.queue_seconds is not None:
            self.queue_wait.observe(record.queue_seconds)
        if record.ttft_seconds is not None:
            self.first_token.observe(record.ttft_seconds)
            self._first_tokens.append(record.ttft_seconds)
        if record.error is None:
            self.whole.observe(seconds)

    def _note(self, second: tuple[int, int]) -> None:
        when, tokens = second
        place = when % len(self._seconds)
        known, count = self._seconds[place]
        if known <= when:  # an answer that paused may tell of a second whose place is taken
            self._seconds[place] = (when, count + tokens if known == when else tokens)
