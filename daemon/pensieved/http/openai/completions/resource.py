"""POST /v1/completions over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.http.jsonbody import read_json
from pensieved.http.openai.choices import Choices, fan_out
from pensieved.http.openai.completions.encode import CompletionsBuilder, CompletionsStream
from pensieved.http.openai.completions.schema import completions_decoder
from pensieved.http.openai.completions.translate import prompts, to_completions
from pensieved.http.openai.respond import respond_stream, respond_whole
from pensieved.http.record import record_of
from pensieved.http.stream import client_gone

if TYPE_CHECKING:
    import falcon

    from pensieved.http.completion import Completions
    from pensieved.http.openai.completions.schema import CompletionsRequest


class LegacyCompletions:
    """POST /v1/completions."""

    def __init__(self, completions: Completions, max_body: int) -> None:
        self._completions = completions
        self._max_body = max_body

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, as one object or as a stream of pieces."""
        request = read_json(req, completions_decoder, self._max_body)
        record = record_of(req.env)
        record.stream = bool(request.stream)
        count = request.n or 1
        requests = [each for prompt in to_completions(request) for each in fan_out(prompt, count)]
        echoes = self._echoes(request, count)
        choices = Choices(
            self._completions, requests, per_prompt=count, record=record, client_gone=client_gone(req)
        )
        logprobs = request.logprobs
        if request.stream:
            options = request.stream_options
            usage = bool(options and options.include_usage)
            stream = CompletionsStream(
                request.model, choices, echoes=echoes, logprobs=logprobs, include_usage=usage
            )
            respond_stream(resp, choices, stream)
        else:
            builder = CompletionsBuilder(request.model, choices, echoes=echoes, logprobs=logprobs)
            respond_whole(resp, choices, builder)

    def _echoes(self, request: CompletionsRequest, count: int) -> list[str]:
        """What precedes each choice: the prompt's text, where it is to be echoed."""
        contents = [prompt.content for prompt in prompts(request)]
        if not request.echo:
            return [""] * (len(contents) * count)
        texts = [
            content
            if isinstance(content, str)
            else self._completions.resident(request.model).text.decode(content)
            for content in contents
        ]
        return [text for text in texts for _ in range(count)]
