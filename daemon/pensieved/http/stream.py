"""Server-sent events: an answer's events to bytes, ping included."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import structlog

from pensieved.chat.events import Event, Failure, Idle
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.answer import Answer, ClientGoneError
from pensieved.http.errors import internal_error

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

PING_AFTER = 5.0
"""Seconds without a byte before a ping; some clients give up after 20."""

HOLD = 3.0
"""Seconds for which the status line is held back: a failure until then gets a real HTTP status."""


class StreamEncoder(Protocol):
    """A dialect's event stream. Every method returns whole SSE events, or nothing."""

    def encode(self, event: Event, input_tokens: int | None) -> bytes:
        """One event; `input_tokens` is None while the prompt is not known."""

    def ping(self) -> bytes:
        """What keeps the connection alive."""

    def error(self, error: RequestError) -> bytes:
        """What ends a stream that cannot be completed."""


class AnswerStream:
    """The body of a streamed response; closing it closes the answer.

    Construction waits for the answer's first event, `HOLD` seconds at most.

    Raises:
        RequestError: the answer failed before it began.
        ClientGoneError: the client went away before it began.
    """

    def __init__(self, answer: Answer, encoder: StreamEncoder) -> None:
        self._answer = answer
        self._encoder = encoder
        try:
            self._first = self._await_first()
        except BaseException:
            answer.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._encoded()
        except ClientGoneError:
            return
        except Exception:
            log.exception("stream failed")
            self._answer.close(RequestErrorKind.INTERNAL.value)
            yield self._encoder.error(internal_error())
        finally:
            self._answer.close()

    def close(self) -> None:
        """Stop answering."""
        self._answer.close()

    def _await_first(self) -> Event:
        deadline = time.monotonic() + HOLD
        for event in self._answer:
            if isinstance(event, Failure):
                raise RequestError(RequestErrorKind(event.kind), event.message)
            if not isinstance(event, Idle) or time.monotonic() > deadline:
                return event
        raise AssertionError("an answer ends with Finish or Failure")

    def _encoded(self) -> Iterator[bytes]:
        # After the hold, something is sent at once, so that the client sees the headers.
        yield self._encode(self._first) or self._encoder.ping()
        written = time.monotonic()
        for event in self._answer:
            data = self._encode(event)
            now = time.monotonic()
            if not data and now - written >= PING_AFTER:
                data = self._encoder.ping()
            if data:
                written = now
                yield data

    def _encode(self, event: Event) -> bytes:
        if isinstance(event, Failure):
            return self._encoder.error(RequestError(RequestErrorKind(event.kind), event.message))
        return self._encoder.encode(event, self._answer.input_tokens)
