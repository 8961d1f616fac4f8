"""One connection under Waitress, with three habits that Waitress does not have.

1. What Waitress itself refuses (a malformed request line, too large a body or header) is said in the
   dialect's envelope.
2. A refused body is read to its end and thrown away, for a while, before the connection is closed. Closing
   at once would reset the connection, and most clients, still sending, would never read why.
3. A client may be slow, but not forever: headers, bodies and reading of answers have deadlines. None of
   them holds a thread, but each holds a connection.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from pensieved.http.errors import EnvelopeOf, of_status
from pensieved.http.record import RequestRecord, request_id_headers

if TYPE_CHECKING:
    from pensieved.errors import RequestError

HEADER_SECONDS = 30.0
BODY_SECONDS = 300.0
UNREAD_SECONDS = 120.0
LINGER_SECONDS = 30.0

_TOO_LARGE = 413


def channel_class(envelope_of: EnvelopeOf, too_large: RequestError) -> type[HTTPChannel]:
    """The channel for a server whose errors are said by `envelope_of`."""

    class EnvelopeTask(_EnvelopeTask):
        pass

    EnvelopeTask.envelope_of = staticmethod(envelope_of)
    EnvelopeTask.too_large = too_large

    class BoundChannel(Channel):
        error_task_class = EnvelopeTask

    return BoundChannel


class _EnvelopeTask(ErrorTask):  # type: ignore[misc]  # waitress has no types
    """Answers what could not be parsed as a request."""

    envelope_of: EnvelopeOf
    too_large: RequestError

    def execute(self) -> None:
        problem = self.request.error
        error = self.too_large if problem.code == _TOO_LARGE else of_status(problem.code, problem.body)
        record = RequestRecord(method=getattr(self.request, "command", "") or "-", route="-")
        _, body = self.envelope_of(getattr(self.request, "path", ""))(error, record.request_id)
        self.status = f"{problem.code} {problem.reason}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            *request_id_headers(record.request_id),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        record.status, record.error = problem.code, error.kind.value
        record.emit()


class Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """See the module. The methods below run on Waitress' loop, `readable` at each of its turns."""

    will_close: bool

    _receiving_since: float | None = None
    _refused = False
    _lingering_until: float | None = None

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
        if self.request is None:
            self._receiving_since = time.time()
        taken = super().received(data)
        if self.request is None:
            self._receiving_since = None
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

    def _is_overdue(self, now: float) -> bool:
        if self._lingering_until is not None:
            return now > self._lingering_until
        if self.total_outbufs_len and now - self.last_activity > UNREAD_SECONDS:
            return True
        if self._receiving_since is None or self.request is None:
            return False
        limit = BODY_SECONDS if self.request.headers_finished else HEADER_SECONDS
        return now - self._receiving_since > limit


def connections(map_: dict[int, Any]) -> list[Channel]:
    """The channels among a Waitress loop's sockets."""
    return [item for item in map_.values() if isinstance(item, Channel)]
