"""Neutral events to server-sent events.

The event stream is what costs per token, so its frames are cut out in advance and only text goes through
the JSON encoder. Every event has its `event:` line; the SDKs drop those without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.events import (
    Event,
    Finish,
    Idle,
    TextDelta,
    ThinkingDelta,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from pensieved.http.anthropic.errors import envelope
from pensieved.http.anthropic.shape import (
    STOP_REASONS,
    MessageAnswer,
    Thoughts,
    ToolUse,
    message_usage,
    tool_id,
)
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from pensieved.chat.events import Usage
    from pensieved.errors import RequestError
    from pensieved.http.anthropic.blocks import Lifetime
    from pensieved.http.anthropic.signature import Signer

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_EMPTY_TEXT = b'{"type":"text","text":""}'
_EMPTY_THINKING = b'{"type":"thinking","thinking":"","signature":""}'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_json = msgspec.json.Encoder().encode


class MessageStream:
    """Encodes events as they come. `model` is the name that was asked for."""

    def __init__(
        self, model: str, request_id: str, signer: Signer, thoughts: Thoughts, lifetime: Lifetime = "5m"
    ) -> None:
        self._model = model
        self._request_id = request_id
        self._signer = signer
        self._thoughts = thoughts
        self._lifetime = lifetime
        self._started = False
        self._index = -1  # of the current content block
        self._open = b""  # the kind of the current block, empty between blocks
        self._thought: list[str] = []  # the current thinking block, for its signature

    def encode(self, event: Event, prompt_usage: Usage | None) -> bytes:
        """Whole SSE events. The message starts as soon as the prompt is known."""
        start = b"" if self._started or prompt_usage is None else self._start(prompt_usage)
        return start + self._event(event)

    def ping(self) -> bytes:
        """Allowed anywhere, also before the message starts."""
        return _PING

    def error(self, error: RequestError) -> bytes:
        """Ends the stream."""
        _, body = envelope(error, self._request_id)
        return b"event: error\ndata: " + body + b"\n\n"

    def _start(self, usage: Usage) -> bytes:
        self._started = True
        message = MessageAnswer(
            id=new_id("msg"),
            model=self._model,
            content=[],
            usage=message_usage(usage, self._lifetime),
        )
        return b'event: message_start\ndata: {"type":"message_start","message":' + _json(message) + b"}\n\n"

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                data = self._block(b"text", _EMPTY_TEXT) + self._delta(b"text_delta", b"text", event.text)
            case ThinkingDelta():
                data = self._thinking(event.text)
            case ToolCallStart():
                call = ToolUse(tool_id(event.call_id), event.name, {})
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
        delta = {"stop_reason": STOP_REASONS[finish.reason], "stop_sequence": finish.stop_sequence}
        return (
            self._close()
            + b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b}\n\n'
            % (_json(delta), _json(message_usage(finish.usage, self._lifetime)))
            + _MESSAGE_STOP
        )
