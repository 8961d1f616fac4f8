"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon
import msgspec

from pensieved.http.anthropic.caching import lifetime
from pensieved.http.anthropic.encode import MessageBuilder
from pensieved.http.anthropic.schema import ThinkingDisabled, count_decoder, messages_decoder
from pensieved.http.anthropic.shape import Thoughts
from pensieved.http.anthropic.stream import MessageStream
from pensieved.http.anthropic.translate import to_completion, to_conversation
from pensieved.http.jsonbody import read_json
from pensieved.http.record import record_of
from pensieved.http.stream import AnswerStream, client_gone, send_stream

if TYPE_CHECKING:
    from pensieved.http.answer import Answer
    from pensieved.http.anthropic.schema import MessagesRequest
    from pensieved.http.anthropic.signature import Signer
    from pensieved.http.completion import Completions


class Messages:
    """POST /v1/messages."""

    def __init__(self, completions: Completions, max_body: int, signer: Signer) -> None:
        self._completions = completions
        self._max_body = max_body
        self._signer = signer

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, as one object or as a stream of events."""
        request = read_json(req, messages_decoder, self._max_body)
        record = record_of(req.env)
        record.stream = bool(request.stream)
        answer = self._completions.start(to_completion(request, self._signer), record, client_gone(req))
        thoughts = _thoughts(request)
        if request.stream:
            encoder = MessageStream(
                request.model, record.request_id, self._signer, thoughts, lifetime(request)
            )
            send_stream(resp, AnswerStream(answer, encoder))
        else:
            builder = MessageBuilder(request.model, self._signer, thoughts, lifetime(request))
            resp.data = _whole(answer, builder)
            resp.content_type = falcon.MEDIA_JSON


class CountTokens:
    """POST /v1/messages/count_tokens."""

    def __init__(self, completions: Completions, max_body: int, signer: Signer) -> None:
        self._completions = completions
        self._max_body = max_body
        self._signer = signer

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Exactly the input tokens that the same request to /v1/messages would be charged."""
        request = read_json(req, count_decoder, self._max_body)
        record = record_of(req.env)
        record.model = request.model
        record.input_tokens = self._completions.count(request.model, to_conversation(request, self._signer))
        resp.data = msgspec.json.encode({"input_tokens": record.input_tokens})
        resp.content_type = falcon.MEDIA_JSON


def _thoughts(request: MessagesRequest) -> Thoughts:
    if request.thinking is None or isinstance(request.thinking, ThinkingDisabled):
        return Thoughts.HIDDEN
    return Thoughts.OMITTED if getattr(request.thinking, "display", None) == "omitted" else Thoughts.SHOWN


def _whole(answer: Answer, builder: MessageBuilder) -> bytes:
    try:
        for event in answer:
            message = builder.add(event)
            if message is not None:
                return message
    finally:
        answer.close()
    raise AssertionError("an answer ends with Finish or Failure")
