"""One connection under Waitress, with four habits that Waitress does not have.

1. What Waitress itself refuses (a malformed request line, too large a body or header) is said in the
   dialect's envelope.
2. A refused body is read to its end and thrown away, for a while, before the connection is closed. Closing
   at once would reset the connection, and most clients, still sending, would never read why.
3. A client may be slow, but not forever: headers, bodies and reading of answers have deadlines. None of
   them holds a thread, but each holds a connection.
4. Where there are too many connections, one that waits for its client makes room for the newcomer. Waitress
   would take no more, so that a thousand silent clients could shut everybody out.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from pensieved.http.errors import EnvelopeOf, of_status
from pensieved.http.parser import Parser, Refused
from pensieved.http.record import RequestRecord, request_id_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.errors import RequestError
    from pensieved.http.parser import Screen

HEADER_SECONDS = 30.0
BODY_SECONDS = 300.0
UNREAD_SECONDS = 120.0
LINGER_SECONDS = 30.0

_TOO_LARGE = 413


def channel_class(
    envelope_of: EnvelopeOf,
    too_large: RequestError,
    *,
    most: int,
    screen: Screen | None,
    finish: Callable[[RequestRecord], object],
) -> type[HTTPChannel]:
    """The channel for a server whose errors are said by `envelope_of`, with at most about `most` of them.

    `finish` is told of requests that never reach the app.
    """

    class EnvelopeTask(_EnvelopeTask):
        pass

    EnvelopeTask.envelope_of = staticmethod(envelope_of)
    EnvelopeTask.too_large = too_large
    EnvelopeTask.over = staticmethod(finish)

    class ScreeningParser(Parser):
        pass

    if screen is not None:
        ScreeningParser.screen = staticmethod(screen)

    class BoundChannel(Channel):
        error_task_class = EnvelopeTask
        parser_class = ScreeningParser
        most_connections = most

    return BoundChannel


class _EnvelopeTask(ErrorTask):  # type: ignore[misc]  # waitress has no types
    """Answers what could not be parsed as a request."""

    envelope_of: EnvelopeOf
    too_large: RequestError
    over: Callable[[RequestRecord], object]  # not `finish`, which Waitress calls itself

    def execute(self) -> None:
        problem = self.request.error
        record = RequestRecord(method=getattr(self.request, "command", "") or "-", route="-")
        envelope = self.envelope_of(getattr(self.request, "path", ""))
        if isinstance(problem, Refused):
            error = problem.refusal
            self.status, body = envelope(error, record.request_id)
        else:
            error = self.too_large if problem.code == _TOO_LARGE else of_status(problem.code, problem.body)
            _, body = envelope(error, record.request_id)
            self.status = f"{problem.code} {problem.reason}"
        self._say(body, record)
        record.status, record.error = int(self.status[:3]), error.kind.value
        self.over(record)

    def _say(self, body: bytes, record: RequestRecord) -> None:
        self.response_headers += [
            ("Content-Type", "application/json"),
            *request_id_headers(record.request_id),
        ]
        if self.status.startswith("401"):
            self.response_headers.append(("WWW-Authenticate", "Bearer"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """See the module. The methods below run on Waitress' loop, `readable` at each of its turns."""

    will_close: bool
    last_activity: float

    most_connections = 1 << 30
    opened = 0  # counted by the class, since the server's start

    _receiving_since: float | None = None
    _refused = False
    _lingering_until: float | None = None
    _unread_since: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).opened += 1
        self._make_room()

    def readable(self) -> bool:
        """Whether to wait for input; the place where deadlines are looked at."""
        now = time.time()
        if self._is_overdue(now):
            # Not `will_close`: that waits for the socket to take data, which is what a stuck one does not do.
            self.handle_close()
            return False
        return self._lingering_until is not None or bool(super().readable())

    def writable(self) -> bool:
        """Whether to wait until output is possible."""
        return bool(self.connected and super().writable())

    def handle_read(self) -> None:
        """Take input, or throw it away while lingering."""
        if self._lingering_until is None:
            super().handle_read()
            return
        try:
            self.recv(self.adj.recv_bytes)  # which also notices the end
        except OSError:
            self.handle_close()

    def received(self, data: bytes) -> bool:
        """Parse input; once a request was refused, nothing that follows is one."""
        if self._refused:
            return False
        before = self.request
        taken = super().received(data)
        if self.request is None:
            self._receiving_since = None
        elif self.request is not before:
            self._receiving_since = time.time()
        self._refused = any(request.error for request in self.requests)
        return bool(taken)

    def send_continue(self) -> None:
        """Ask for the body, unless the headers were refused: then the refusal is the answer."""
        if self.request.error is None:
            super().send_continue()

    def handle_write(self) -> None:
        """Flush; after a refusal, linger instead of closing."""
        if not (self._refused and self.close_when_flushed):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.will_close:
            self.handle_close()
        elif not self.total_outbufs_len:
            self._linger()

    def _linger(self) -> None:
        self.close_when_flushed = False
        self._lingering_until = time.time() + LINGER_SECONDS
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its client, where there are too many."""
        others = [one for one in self.server.active_channels.values() if one is not self and one.waits]
        if len(self.server.active_channels) > self.most_connections and others:
            min(others, key=lambda one: one.claim).handle_close()

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn: no request of its is being answered."""
        return bool(self.connected) and not self.requests

    @property
    def claim(self) -> tuple[int, float]:
        """How much speaks for keeping it: an answer under way to it, then a body from it, then since when."""
        if self.total_outbufs_len:
            return 2, self.last_activity
        uploading = self.request is not None and self.request.headers_finished
        return int(uploading), self._receiving_since or self.last_activity

    def _is_overdue(self, now: float) -> bool:
        if self._lingering_until is not None:
            return now > self._lingering_until
        if self._unread_for(now) > UNREAD_SECONDS:
            return True
        if self._receiving_since is None or self.request is None:
            return False
        limit = BODY_SECONDS if self.request.headers_finished else HEADER_SECONDS
        return now - self._receiving_since > limit

    def _unread_for(self, now: float) -> float:
        """Seconds for which output has waited and nothing of it was taken, from the first look that found some.

        Not from the last activity alone: before an answer that took minutes that is its request, and a look may fall
        into the very moment in which a thread hands the answer over.
        """
        if not self.total_outbufs_len:
            self._unread_since = None
            return 0.0
        if self._unread_since is None:
            self._unread_since = now
        return now - max(self._unread_since, self.last_activity)


def connections(map_: dict[int, Any]) -> list[Channel]:
    """The channels among a Waitress loop's sockets; from any thread."""
    return [item for item in list(map_.values()) if isinstance(item, Channel)]
