"""POST /v1/chat/completions over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.http.jsonbody import read_json
from pensieved.http.openai.chat.encode import ChatBuilder
from pensieved.http.openai.chat.schema import chat_decoder
from pensieved.http.openai.chat.stream import ChatStream
from pensieved.http.openai.chat.translate import to_completion
from pensieved.http.openai.choices import Choices, fan_out
from pensieved.http.openai.respond import respond_stream, respond_whole
from pensieved.http.record import record_of
from pensieved.http.stream import client_gone

if TYPE_CHECKING:
    import falcon

    from pensieved.http.completion import Completions


class ChatCompletions:
    """POST /v1/chat/completions."""

    def __init__(self, completions: Completions, max_body: int) -> None:
        self._completions = completions
        self._max_body = max_body

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, as one object or as a stream of chunks."""
        request = read_json(req, chat_decoder, self._max_body)
        record = record_of(req.env)
        record.stream = bool(request.stream)
        count = request.n or 1
        choices = Choices(
            self._completions,
            fan_out(to_completion(request), count),
            per_prompt=count,
            record=record,
            client_gone=client_gone(req),
        )
        logprobs = bool(request.logprobs)
        if request.stream:
            options = request.stream_options
            include_usage = bool(options and options.include_usage)
            stream = ChatStream(request.model, choices, include_usage=include_usage, logprobs=logprobs)
            respond_stream(resp, choices, stream)
        else:
            respond_whole(resp, choices, ChatBuilder(request.model, choices, logprobs=logprobs))
