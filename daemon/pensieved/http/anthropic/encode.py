"""Neutral events to Anthropic's message: as one object, or as server-sent events.

The event stream is what costs per token, so its frames are cut out in advance and only text goes through
the JSON encoder. Every event has its `event:` line; the SDKs drop those without.

Reasoning is shown to those who asked for it. Others get none of it, though it was written and is charged: a
client that did not ask expects the answer's text in the first block.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pydantic_core

from pensieved.chat.events import (
    Event,
    Failure,
    Finish,
    Idle,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic.errors import envelope
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from pensieved.http.anthropic.signature import Signer

_STOP_REASONS = {
    StopReason.END: "end_turn",
    StopReason.LENGTH: "max_tokens",
    StopReason.CONTEXT: "model_context_window_exceeded",
    StopReason.STOP_SEQUENCE: "stop_sequence",
    StopReason.TOOL_USE: "tool_use",
}

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_EMPTY_TEXT = b'{"type":"text","text":""}'
_EMPTY_THINKING = b'{"type":"thinking","thinking":"","signature":""}'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_json = msgspec.json.Encoder().encode


class Thoughts(StrEnum):
    """What a client sees of the model's reasoning."""

    SHOWN = "shown"
    OMITTED = "omitted"  # that there was some, but not what
    HIDDEN = "hidden"  # nothing


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


class _Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class _ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


_Block = _Text | _Thinking | _ToolUse


class MessageAnswer(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """A whole answer; also what begins a stream."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[_Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _Usage


def _usage(usage: Usage) -> _Usage:
    return _Usage(
        input_tokens=usage.input_tokens - usage.cached_tokens,
        output_tokens=usage.output_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )


def _tool_id(call_id: str) -> str:
    return f"toolu_{call_id}"


class MessageBuilder:
    """Collects events into one message. `model` is the name that was asked for."""

    def __init__(self, model: str, signer: Signer, thoughts: Thoughts) -> None:
        self._model = model
        self._signer = signer
        self._thoughts = thoughts
        self._blocks: list[_Block] = []
        self._kind: type[Event] | None = None  # of the events that make the current block
        self._pieces: list[str] = []  # its text, or a call's arguments

    def add(self, event: Event) -> bytes | None:
        """The whole message as JSON, once `event` is the last.

        Raises:
            RequestError: `event` is a failure.
        """
        match event:
            case TextDelta():
                self._more(TextDelta, event.text)
            case ThinkingDelta() if self._thoughts is not Thoughts.HIDDEN:
                self._more(ThinkingDelta, event.text)
            case ToolCallStart():
                self._close()
                self._kind = ToolCallStart
                self._blocks.append(_ToolUse(_tool_id(event.call_id), event.name, {}))
            case ToolArgumentsDelta():
                self._pieces.append(event.json)
            case Failure():
                raise RequestError(RequestErrorKind(event.kind), event.message)
            case Finish():
                self._close()
                return self._message(event)
            case _:
                pass
        return None

    def _more(self, kind: type[Event], text: str) -> None:
        if self._kind is not kind:
            self._close()
            self._kind = kind
        self._pieces.append(text)

    def _close(self) -> None:
        """Make the block of the current events."""
        text, last = "".join(self._pieces), self._blocks[-1] if self._blocks else None
        if self._kind is TextDelta:
            self._blocks.append(_Text(text))
        elif self._kind is ThinkingDelta:
            shown = text if self._thoughts is Thoughts.SHOWN else ""
            self._blocks.append(_Thinking(shown, self._signer.sign(shown)))
        elif self._kind is ToolCallStart and isinstance(last, _ToolUse):
            # Of a call that was cut off, what is complete: the rule by which the SDKs read streamed ones.
            last.input = pydantic_core.from_json(text, allow_partial=True) if text else {}
        self._kind = None
        self._pieces = []

    def _message(self, finish: Finish) -> bytes:
        return _json(
            MessageAnswer(
                id=new_id("msg"),
                model=self._model,
                content=self._blocks,
                stop_reason=_STOP_REASONS[finish.reason],
                stop_sequence=finish.stop_sequence,
                usage=_usage(finish.usage),
            )
        )


class MessageStream:
    """Encodes events as they come. `model` is the name that was asked for."""

    def __init__(self, model: str, request_id: str, signer: Signer, thoughts: Thoughts) -> None:
        self._model = model
        self._request_id = request_id
        self._signer = signer
        self._thoughts = thoughts
        self._started = False
        self._index = -1  # of the current content block
        self._open = b""  # the kind of the current block, empty between blocks
        self._thought: list[str] = []  # the current thinking block, for its signature

    def encode(self, event: Event, input_tokens: int | None) -> bytes:
        """Whole SSE events. The message starts as soon as the prompt is known."""
        start = b"" if self._started or input_tokens is None else self._start(input_tokens)
        return start + self._event(event)

    def ping(self) -> bytes:
        """Allowed anywhere, also before the message starts."""
        return _PING

    def error(self, error: RequestError) -> bytes:
        """Ends the stream."""
        _, body = envelope(error, self._request_id)
        return b"event: error\ndata: " + body + b"\n\n"

    def _start(self, input_tokens: int) -> bytes:
        self._started = True
        message = MessageAnswer(
            id=new_id("msg"),
            model=self._model,
            content=[],
            usage=_usage(Usage(input_tokens, output_tokens=0)),
        )
        return b'event: message_start\ndata: {"type":"message_start","message":' + _json(message) + b"}\n\n"

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                data = self._block(b"text", _EMPTY_TEXT) + self._delta(b"text_delta", b"text", event.text)
            case ThinkingDelta():
                data = self._thinking(event.text)
            case ToolCallStart():
                call = _ToolUse(_tool_id(event.call_id), event.name, {})
                data = self._close() + self._block(b"tool_use", _json(call))
            case ToolArgumentsDelta():
                data = self._delta(b"input_json_delta", b"partial_json", event.json)
            case ToolCallEnd():
                data = self._close()
            case Finish():
                data = self._finish(event)
            case Idle():
                data = b""
            case _:
                raise TypeError(f"{type(event).__name__} is not encoded by this dialect")
        return data

    def _thinking(self, text: str) -> bytes:
        if self._thoughts is Thoughts.HIDDEN:
            return b""
        opened = self._block(b"thinking", _EMPTY_THINKING)
        if self._thoughts is Thoughts.OMITTED:
            return opened
        self._thought.append(text)
        return opened + self._delta(b"thinking_delta", b"thinking", text)

    def _delta(self, kind: bytes, key: bytes, text: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":%b}}\n\n' % (self._index, kind, key, _json(text))
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
        signed = b""
        if self._open == b"thinking":
            signed = self._delta(b"signature_delta", b"signature", self._signer.sign("".join(self._thought)))
            self._thought = []
        self._open = b""
        return signed + (
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index
        )

    def _finish(self, finish: Finish) -> bytes:
        delta = {"stop_reason": _STOP_REASONS[finish.reason], "stop_sequence": finish.stop_sequence}
        return (
            self._close()
            + b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b}\n\n'
            % (_json(delta), _json(_usage(finish.usage)))
            + _MESSAGE_STOP
        )
