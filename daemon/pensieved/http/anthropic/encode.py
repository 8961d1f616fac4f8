"""Neutral events to one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pydantic_core

from pensieved.chat.events import (
    Event,
    Failure,
    Finish,
    TextDelta,
    ThinkingDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from pensieved.http.anthropic.shape import (
    STOP_REASONS,
    Block,
    MessageAnswer,
    Text,
    Thinking,
    Thoughts,
    ToolUse,
    message_usage,
    tool_id,
)
from pensieved.http.errors import failed
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from pensieved.http.anthropic.blocks import Lifetime
    from pensieved.http.anthropic.signature import Signer


class MessageBuilder:
    """Collects events into one message. `model` is the name that was asked for."""

    def __init__(self, model: str, signer: Signer, thoughts: Thoughts, lifetime: Lifetime = "5m") -> None:
        self._model = model
        self._signer = signer
        self._thoughts = thoughts
        self._lifetime = lifetime
        self._blocks: list[Block] = []
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
                self._blocks.append(ToolUse(tool_id(event.call_id), event.name, {}))
            case ToolArgumentsDelta():
                self._pieces.append(event.json)
            case Failure():
                raise failed(event)
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
            self._blocks.append(Text(text))
        elif self._kind is ThinkingDelta:
            shown = text if self._thoughts is Thoughts.SHOWN else ""
            self._blocks.append(Thinking(shown, self._signer.sign(shown)))
        elif self._kind is ToolCallStart and isinstance(last, ToolUse):
            # Of a call that was cut off, what is complete: the rule by which the SDKs read streamed ones.
            last.input = pydantic_core.from_json(text, allow_partial=True) if text else {}
        self._kind = None
        self._pieces = []

    def _message(self, finish: Finish) -> bytes:
        return msgspec.json.encode(
            MessageAnswer(
                id=new_id("msg"),
                model=self._model,
                content=self._blocks,
                stop_reason=STOP_REASONS[finish.reason],
                stop_sequence=finish.stop_sequence,
                usage=message_usage(finish.usage, self._lifetime),
            )
        )
