"""Who may run now, who waits, and who is sent away.

At most `max_concurrent` requests hold a slot; at most `max_queued` wait for one, first come, first served;
any other is refused at once with an estimate of when to come back. A ticket is left exactly once, from
wherever it stands, so a client that goes away while waiting leaves the queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

from pensieved.errors import RequestError, RequestErrorKind

LEAST_RETRY, MOST_RETRY = 1, 60
"""Bounds of Retry-After, in seconds."""

_FIRST_GUESS = 5.0  # seconds a request is thought to take before any was seen
_WEIGHT = 0.2  # of the newest duration in the running mean


def bounded_retry(seconds: float) -> int:
    """A whole number of seconds for Retry-After."""
    return min(MOST_RETRY, max(LEAST_RETRY, math.ceil(seconds)))


class Ticket:
    """A place in the queue, then a slot. Context manager: leaving gives back whichever it is."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._granted = threading.Event()
        self.granted_at = 0.0

    def wait(self, timeout: float) -> bool:
        """Whether the slot is held, after at most `timeout` seconds."""
        return self._granted.wait(timeout)

    def leave(self) -> None:
        """Give the slot or the place back; doing so again changes nothing."""
        self._admission.leave(self)

    def grant(self) -> None:
        """For `Admission`: the slot is yours."""
        self.granted_at = time.monotonic()
        self._granted.set()


class Admission:
    """Slots and queue of one daemon; safe from any thread."""

    def __init__(self, max_concurrent: int, max_queued: int) -> None:
        self.max_concurrent = max_concurrent
        self.max_queued = max_queued
        self._changed = threading.Condition()
        self._holders: set[Ticket] = set()
        self._queue: deque[Ticket] = deque()
        self._mean_seconds = _FIRST_GUESS
        self._refused = 0
        self._aborted = threading.Event()

    @property
    def running(self) -> int:
        """Slots taken."""
        return len(self._holders)

    @property
    def queued(self) -> int:
        """Tickets waiting."""
        return len(self._queue)

    @property
    def refused(self) -> int:
        """How many were sent away because there was no place, since the start."""
        return self._refused

    @property
    def aborted(self) -> bool:
        """Whether running answers must end now."""
        return self._aborted.is_set()

    def enter(self) -> Ticket:
        """Take a slot, or a place in the queue.

        Raises:
            RequestError: OVERLOADED, with Retry-After, when both are full.
        """
        return self.enter_together(1)[0]

    def enter_together(self, count: int) -> list[Ticket]:
        """Take `count` slots or places at once, or none.

        Raises:
            RequestError: OVERLOADED, with Retry-After, when fewer are free; INVALID when there are fewer at all.
        """
        places = self.max_concurrent + self.max_queued
        if count > max(1, places):
            raise RequestError(
                RequestErrorKind.INVALID,
                f"{count} answers at once are more than the {places} this daemon takes.",
            )
        with self._changed:
            if len(self._holders) + len(self._queue) + count > places:
                self._refused += 1
                raise RequestError(
                    RequestErrorKind.OVERLOADED,
                    f"All {self.max_concurrent} slots and {self.max_queued} queue places are taken."
                    if count == 1
                    else f"Fewer than {count} of {self.max_concurrent} slots and {self.max_queued} queue places are free.",
                    retry_after=self._estimate(),
                )
            tickets = [Ticket(self) for _ in range(count)]
            for ticket in tickets:
                if len(self._holders) < self.max_concurrent:
                    self._hold(ticket)
                else:
                    self._queue.append(ticket)
            return tickets

    def leave(self, ticket: Ticket) -> None:
        """Give back what `ticket` holds and let the next one in."""
        with self._changed:
            if ticket in self._holders:
                self._holders.remove(ticket)
                seconds = time.monotonic() - ticket.granted_at
                self._mean_seconds += _WEIGHT * (seconds - self._mean_seconds)
                if self._queue and len(self._holders) < self.max_concurrent:
                    self._hold(self._queue.popleft())
            elif ticket in self._queue:
                self._queue.remove(ticket)
            self._changed.notify_all()

    def resize(self, max_concurrent: int, max_queued: int) -> None:
        """Other numbers of slots and places, from now on; nobody who has one loses it."""
        with self._changed:
            self.max_concurrent, self.max_queued = max_concurrent, max_queued
            while self._queue and len(self._holders) < max_concurrent:
                self._hold(self._queue.popleft())

    def abort(self) -> None:
        """Make running and waiting answers end with an error; for when draining took too long."""
        self._aborted.set()

    def wait_idle(self, timeout: float) -> bool:
        """Whether nothing runs or waits any more, after at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._holders and not self._queue, timeout)

    def _hold(self, ticket: Ticket) -> None:
        self._holders.add(ticket)
        ticket.grant()

    def _estimate(self) -> int:
        """Seconds until a place is likely free: one slot's turn over."""
        return bounded_retry(self._mean_seconds / self.max_concurrent)
