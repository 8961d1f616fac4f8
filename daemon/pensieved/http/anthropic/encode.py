"""Neutral events to Anthropic's message: as one object, or as server-sent events.

The event stream is what costs per token, so its frames are cut out in advance and only text goes through
the JSON encoder. Every event has its `event:` line; the SDKs drop those without.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pensieved.chat.events import Event, Failure, Finish, Idle, StopReason, TextDelta, Usage
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic.errors import envelope
from pensieved.http.record import new_id

_STOP_REASONS = {
    StopReason.END: "end_turn",
    StopReason.LENGTH: "max_tokens",
    StopReason.CONTEXT: "model_context_window_exceeded",
    StopReason.STOP_SEQUENCE: "stop_sequence",
    StopReason.TOOL_USE: "tool_use",
}

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_json = msgspec.json.Encoder().encode


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class _Usage(msgspec.Struct):
    """Total input is input + creation + read."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: _CacheCreation = msgspec.field(default_factory=_CacheCreation)
    service_tier: Literal["standard"] = "standard"


class _Text(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class _Message(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[_Text]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _Usage


def _usage(usage: Usage) -> _Usage:
    return _Usage(
        input_tokens=usage.input_tokens - usage.cached_tokens,
        output_tokens=usage.output_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )


class MessageBuilder:
    """Collects events into one message. `model` is the name that was asked for."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []

    def add(self, event: Event) -> bytes | None:
        """The whole message as JSON, once `event` is the last.

        Raises:
            RequestError: `event` is a failure.
        """
        match event:
            case TextDelta():
                self._text.append(event.text)
            case Failure():
                raise RequestError(RequestErrorKind(event.kind), event.message)
            case Finish():
                return self._message(event)
            case _:
                pass
        return None

    def _message(self, finish: Finish) -> bytes:
        return _json(
            _Message(
                id=new_id("msg"),
                model=self._model,
                content=[_Text("".join(self._text))] if self._text else [],
                stop_reason=_STOP_REASONS[finish.reason],
                stop_sequence=finish.stop_sequence,
                usage=_usage(finish.usage),
            )
        )


class MessageStream:
    """Encodes events as they come. `model` is the name that was asked for."""

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._request_id = request_id
        self._started = False
        self._index = -1  # of the current content block
        self._open = b""  # the kind of the current block, empty between blocks

    def encode(self, event: Event, input_tokens: int | None) -> bytes:
        """Whole SSE events. The message starts as soon as the prompt is known."""
        start = b"" if self._started or input_tokens is None else self._start(input_tokens)
        match event:
            case TextDelta():
                return start + self._text(event.text)
            case Finish():
                return start + self._finish(event)
            case Idle():
                return start
            case _:
                raise TypeError(f"{type(event).__name__} is not encoded by this dialect")

    def ping(self) -> bytes:
        """Allowed anywhere, also before the message starts."""
        return _PING

    def error(self, error: RequestError) -> bytes:
        """Ends the stream."""
        _, body = envelope(error, self._request_id)
        return b"event: error\ndata: " + body + b"\n\n"

    def _start(self, input_tokens: int) -> bytes:
        self._started = True
        message = _Message(
            id=new_id("msg"),
            model=self._model,
            content=[],
            usage=_usage(Usage(input_tokens, output_tokens=0)),
        )
        return b'event: message_start\ndata: {"type":"message_start","message":' + _json(message) + b"}\n\n"

    def _text(self, text: str) -> bytes:
        return self._block(b"text", b'{"type":"text","text":""}') + (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"text_delta","text":%b}}\n\n' % (self._index, _json(text))
        )

    def _block(self, kind: bytes, empty: bytes) -> bytes:
        """Close another kind of block and open one of `kind`, where that is not the current one."""
        if self._open == kind:
            return b""
        closing = self._close()
        self._index += 1
        self._open = kind
        return closing + (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (self._index, empty)
        )

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = b""
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _finish(self, finish: Finish) -> bytes:
        delta = {"stop_reason": _STOP_REASONS[finish.reason], "stop_sequence": finish.stop_sequence}
        return (
            self._close()
            + b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b}\n\n'
            % (_json(delta), _json(_usage(finish.usage)))
            + _MESSAGE_STOP
        )
