"""Neutral events to a response: as one object, or as server-sent events with sequence numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from pensieved.errors import RequestErrorKind
from pensieved.http.openai.choices import Choice
from pensieved.http.openai.errors import detail
from pensieved.http.openai.respond import PING
from pensieved.http.openai.responses.shape import ResponseError
from pensieved.http.openai.responses.write import ResponseWriter

if TYPE_CHECKING:
    from pensieved.chat.events import Usage
    from pensieved.errors import RequestError
    from pensieved.http.openai.choices import ChoiceEvent
    from pensieved.http.openai.responses.shape import ErrorCode, Response

_json = msgspec.json.Encoder().encode
_CLIENTS_FAULT = frozenset({RequestErrorKind.INVALID, RequestErrorKind.TOO_LONG})


class ResponseBuilder:
    """Collects events into one object."""

    def __init__(self, response: Response) -> None:
        self._writer = ResponseWriter(response)

    def add(self, choice: Choice) -> None:
        """One event."""
        self._writer.feed(choice.event)

    def result(self) -> bytes:
        """The response as JSON, once it has finished."""
        return _json(self._writer.response)


class ResponseStream:
    """Encodes events as they come."""

    def __init__(self, response: Response) -> None:
        self._writer = ResponseWriter(response)
        self._started = False
        self._sent = 0

    def encode(self, event: ChoiceEvent, prompt_usage: Usage | None) -> bytes:
        """Whole SSE events. The response begins as soon as the prompt is known."""
        start = b"" if self._started or prompt_usage is None else self._start()
        if not isinstance(event, Choice):
            return start
        told = self._writer.feed(event.event)
        return start + b"".join(self._event(kind, fields) for kind, fields in told)

    def ping(self) -> bytes:
        """Allowed anywhere."""
        return PING

    def error(self, error: RequestError) -> bytes:
        """Ends the stream: the response has failed, and why, in both of the forms that clients look for."""
        failed = b""
        if self._started:
            response = self._writer.response
            code: ErrorCode = "invalid_prompt" if error.kind in _CLIENTS_FAULT else "server_error"
            response.status, response.error = "failed", ResponseError(code, error.what)
            response.completed_at = int(time.time())
            failed = self._event("response.failed", {"response": response})
        what = detail(error)
        return failed + self._event(
            "error", {"code": what.code, "message": what.message, "param": what.param, "error": what}
        )

    def _start(self) -> bytes:
        self._started = True
        response = {"response": self._writer.response}
        return self._event("response.created", response) + self._event("response.in_progress", response)

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        body = _json({"type": kind, "sequence_number": self._sent, **fields})
        self._sent += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)
