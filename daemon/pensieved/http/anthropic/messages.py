"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon
import msgspec

from pensieved.http.anthropic.encode import MessageBuilder, MessageStream
from pensieved.http.anthropic.schema import count_decoder, messages_decoder
from pensieved.http.anthropic.translate import to_completion, to_conversation
from pensieved.http.jsonbody import read_json
from pensieved.http.record import record_of
from pensieved.http.stream import AnswerStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.http.answer import Answer
    from pensieved.http.completion import Completions


class Messages:
    """POST /v1/messages."""

    def __init__(self, completions: Completions, max_body: int) -> None:
        self._completions = completions
        self._max_body = max_body

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, as one object or as a stream of events."""
        request = read_json(req, messages_decoder, self._max_body)
        record = record_of(req.env)
        record.stream = bool(request.stream)
        answer = self._completions.start(to_completion(request), record, _client_gone(req))
        if request.stream:
            encoder = MessageStream(request.model, record.request_id)
            resp.stream = AnswerStream(answer, encoder)
            resp.content_type = "text/event-stream; charset=utf-8"
            resp.cache_control = ("no-cache",)
        else:
            resp.data = _whole(answer, MessageBuilder(request.model))
            resp.content_type = falcon.MEDIA_JSON


class CountTokens:
    """POST /v1/messages/count_tokens."""

    def __init__(self, completions: Completions, max_body: int) -> None:
        self._completions = completions
        self._max_body = max_body

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Exactly the input tokens that the same request to /v1/messages would be charged."""
        request = read_json(req, count_decoder, self._max_body)
        record = record_of(req.env)
        record.model = request.model
        record.input_tokens = self._completions.count(request.model, to_conversation(request))
        resp.data = msgspec.json.encode({"input_tokens": record.input_tokens})
        resp.content_type = falcon.MEDIA_JSON


def _whole(answer: Answer, builder: MessageBuilder) -> bytes:
    try:
        for event in answer:
            message = builder.add(event)
            if message is not None:
                return message
    finally:
        answer.close()
    raise AssertionError("an answer ends with Finish or Failure")


def _client_gone(req: falcon.Request) -> Callable[[], bool]:
    """Waitress' way to notice a closed connection; servers without one never notice."""
    gone: Callable[[], bool] = req.env.get("waitress.client_disconnected", lambda: False)
    return gone
