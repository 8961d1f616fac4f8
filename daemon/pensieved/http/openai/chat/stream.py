"""Neutral events to chat completion chunks.

The stream is what costs per token, so what all chunks of an answer share is cut out in advance and only text
goes through the JSON encoder.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.events import (
    Finish,
    Logprobs,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from pensieved.http.openai.chat.encode import ChoiceLogprobs
from pensieved.http.openai.choices import Choice
from pensieved.http.openai.errors import error_line
from pensieved.http.openai.logprobs import content_logprobs
from pensieved.http.openai.outcome import FINISH_REASONS, call_id, completion_usage
from pensieved.http.openai.respond import DONE, PING
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from pensieved.chat.events import Delta
    from pensieved.errors import RequestError
    from pensieved.http.openai.choices import ChoiceEvent, Choices

_json = msgspec.json.Encoder().encode
_NULL = b"null"


class _State:
    """What must be remembered of one choice."""

    def __init__(self) -> None:
        self.started = False
        self.calls: dict[str, int] = {}
        self.logprobs: list[TokenLogprob] = []


class ChatStream:
    """Encodes the events of all choices as they come.

    Args:
        model: the name that was asked for.
        choices: where the events come from.
        include_usage: end with a chunk of token counts.
        logprobs: whether they were asked for.
    """

    def __init__(self, model: str, choices: Choices, *, include_usage: bool, logprobs: bool) -> None:
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _json(new_id("chatcmpl", "-")),
            int(time.time()),
            _json(model),
        )
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._per_prompt = choices.per_prompt
        self._states = [_State() for _ in range(len(choices))]
        self._usages: dict[int, Usage] = {}

    def encode(self, event: ChoiceEvent, prompt_usage: Usage | None) -> bytes:  # noqa: ARG002  the dialect's start says no counts
        """Whole chunks; the first of a choice says who speaks."""
        if not isinstance(event, Choice):
            return b""
        state = self._states[event.index]
        if state.started:
            return self._said(event, state)
        state.started = True
        start = self._chunk(event.index, b'{"role":"assistant","content":"","refusal":null}')
        return start + self._said(event, state)

    def ping(self) -> bytes:
        """Allowed anywhere."""
        return PING

    def error(self, error: RequestError) -> bytes:
        """Ends the stream; no `[DONE]` follows, since it is not."""
        return error_line(error)

    def _said(self, choice: Choice, state: _State) -> bytes:
        match choice.event:
            case Logprobs():
                state.logprobs += choice.event.tokens
                return b""
            case Finish():
                return self._finish(choice.index, choice.event, state)
            case _:
                delta = _delta(choice.event, state)
                return self._chunk(choice.index, delta, self._take_logprobs(state)) if delta else b""

    def _finish(self, index: int, finish: Finish, state: _State) -> bytes:
        reason = _json(FINISH_REASONS[finish.reason])
        last = self._chunk(index, b"{}", self._take_logprobs(state), reason)
        self._usages[index] = finish.usage
        return last + self._end() if len(self._usages) == len(self._states) else last

    def _end(self) -> bytes:
        if not self._include_usage:
            return DONE
        usage = _json(completion_usage(self._usages, self._per_prompt))
        return self._head + b'"system_fingerprint":null,"choices":[],"usage":%b}\n\n' % usage + DONE

    def _chunk(
        self, index: int, delta: bytes, logprobs: bytes = _NULL, finish_reason: bytes = _NULL
    ) -> bytes:
        return b"".join(
            (
                self._head,
                b'"system_fingerprint":null,"choices":[{"index":%d,"delta":' % index,
                delta,
                b',"logprobs":',
                logprobs,
                b',"finish_reason":',
                finish_reason,
                b"}]",
                self._tail,
            )
        )

    def _take_logprobs(self, state: _State) -> bytes:
        """Of all tokens since the last chunk: those it shows, and those held back with it."""
        if not (self._logprobs and state.logprobs):
            return _NULL
        tokens, state.logprobs = state.logprobs, []
        return _json(ChoiceLogprobs(content_logprobs(tokens)))


def _delta(event: Delta, state: _State) -> bytes:
    match event:
        case TextDelta():
            return b'{"content":%b}' % _json(event.text)
        case ThinkingDelta():
            return b'{"reasoning_content":%b}' % _json(event.text)
        case ToolCallStart():
            index = state.calls[event.call_id] = len(state.calls)
            return (
                b'{"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}]}'
                % (index, _json(call_id(event.call_id)), _json(event.name))
            )
        case ToolArgumentsDelta():
            return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (
                state.calls[event.call_id],
                _json(event.json),
            )
        case ToolCallEnd():
            return b""
