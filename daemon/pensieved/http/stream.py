"""Server-sent events: an answer's events to bytes, ping included."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import structlog

from pensieved.chat.events import Failure, Idle
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.answer import ClientGoneError
from pensieved.http.errors import failed, internal_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import falcon

    from pensieved.chat.events import Usage

log = structlog.get_logger()

PING_AFTER = 5.0
"""Seconds without a byte before a ping; some clients give up after 20."""

HOLD = 3.0
"""Seconds for which the status line is held back: a failure until then gets a real HTTP status."""


E = TypeVar("E")
_E_co = TypeVar("_E_co", covariant=True)
_E_contra = TypeVar("_E_contra", contravariant=True)


class Source(Protocol[_E_co]):
    """Where events come from: an `Answer`, or several of them. `Idle` and `Failure` are among the events."""

    def __iter__(self) -> Self:
        """Itself."""

    def __next__(self) -> _E_co:
        """The next event."""

    @property
    def prompt_usage(self) -> Usage | None:
        """What is known of the prompt's tokens; None as long as the prompt is not known."""

    def close(self, unfinished: str = ...) -> None:
        """Stop, and give everything back."""


class StreamEncoder(Protocol[_E_contra]):
    """A dialect's event stream. Every method returns whole SSE events, or nothing."""

    def encode(self, event: _E_contra, prompt_usage: Usage | None) -> bytes:
        """One event; `prompt_usage` is None while the prompt is not known."""

    def ping(self) -> bytes:
        """What keeps the connection alive."""

    def error(self, error: RequestError) -> bytes:
        """What ends a stream that cannot be completed."""


def client_gone(req: falcon.Request) -> Callable[[], bool]:
    """Waitress' way to notice a closed connection; servers without one never notice."""
    gone: Callable[[], bool] = req.env.get("waitress.client_disconnected", lambda: False)
    return gone


def send_stream(resp: falcon.Response, stream: AnswerStream[E]) -> None:
    """Make `stream` the body of a response."""
    resp.stream = stream
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.cache_control = ("no-cache",)


class AnswerStream(Generic[E]):
    """The body of a streamed response; closing it closes the answer.

    Construction waits for the answer's first event, `HOLD` seconds at most.

    Raises:
        RequestError: the answer failed before it began.
        ClientGoneError: the client went away before it began.
    """

    def __init__(self, answer: Source[E], encoder: StreamEncoder[E]) -> None:
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

    def _await_first(self) -> E:
        deadline = time.monotonic() + HOLD
        for event in self._answer:
            if isinstance(event, Failure):
                raise failed(event)
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

    def _encode(self, event: E) -> bytes:
        if isinstance(event, Failure):
            return self._encoder.error(failed(event))
        return self._encoder.encode(event, self._answer.prompt_usage)
