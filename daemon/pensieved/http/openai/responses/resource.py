"""POST /v1/responses over HTTP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pensieved.http.jsonbody import read_json
from pensieved.http.openai.choices import Choices
from pensieved.http.openai.respond import respond_stream, respond_whole
from pensieved.http.openai.responses.encode import ResponseBuilder, ResponseStream
from pensieved.http.openai.responses.schema import responses_decoder
from pensieved.http.openai.responses.shape import begin
from pensieved.http.openai.responses.translate import function_tools, to_completion
from pensieved.http.record import new_id, record_of
from pensieved.http.stream import client_gone

if TYPE_CHECKING:
    import falcon

    from pensieved.http.completion import Completions


class Responses:
    """POST /v1/responses."""

    def __init__(self, completions: Completions, max_body: int) -> None:
        self._completions = completions
        self._max_body = max_body

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, as one object or as a stream of events."""
        request = read_json(req, responses_decoder, self._max_body)
        record = record_of(req.env)
        record.stream = bool(request.stream)
        tools = function_tools(request)
        response = begin(request, tools, new_id("resp"), int(time.time()))
        choices = Choices(
            self._completions, [to_completion(request, tools)], record=record, client_gone=client_gone(req)
        )
        if request.stream:
            respond_stream(resp, choices, ResponseStream(response))
        else:
            respond_whole(resp, choices, ResponseBuilder(response))
