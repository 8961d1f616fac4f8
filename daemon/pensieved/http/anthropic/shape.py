"""An answer as Anthropic's clients know it: the message, its blocks, its usage."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pensieved.chat.events import StopReason

if TYPE_CHECKING:
    from pensieved.chat.events import Usage
    from pensieved.http.anthropic.blocks import Lifetime

STOP_REASONS = {
    StopReason.END: "end_turn",
    StopReason.LENGTH: "max_tokens",
    StopReason.CONTEXT: "model_context_window_exceeded",
    StopReason.STOP_SEQUENCE: "stop_sequence",
    StopReason.TOOL_USE: "tool_use",
}


class Thoughts(StrEnum):
    """What a client sees of the model's reasoning.

    It is shown to those who asked for it. Others get none of it, though it was written and is charged: a client that
    did not ask expects the answer's text in the first block.
    """

    SHOWN = "shown"
    OMITTED = "omitted"  # that there was some, but not what
    HIDDEN = "hidden"  # nothing


class CacheCreation(msgspec.Struct):
    """Tokens written to the prompt cache, by how long the client wants them to stay. Nothing is charged here."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class MessageUsage(msgspec.Struct):
    """Total input is input + creation + read."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: CacheCreation = msgspec.field(default_factory=CacheCreation)
    service_tier: Literal["standard"] = "standard"


class Text(msgspec.Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    """Reasoning."""

    thinking: str
    signature: str


class ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


Block = Text | Thinking | ToolUse


class MessageAnswer(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """A whole answer; also what begins a stream."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


def message_usage(usage: Usage, lifetime: Lifetime) -> MessageUsage:
    """Token counts in Anthropic's words; `lifetime` is what the client's last mark asked for."""
    created = usage.created_tokens
    return MessageUsage(
        input_tokens=usage.input_tokens - usage.cached_tokens - created,
        output_tokens=usage.output_tokens,
        cache_creation_input_tokens=created,
        cache_read_input_tokens=usage.cached_tokens,
        cache_creation=CacheCreation(0, created) if lifetime == "1h" else CacheCreation(created),
    )


def tool_id(call_id: str) -> str:
    """A call's id as clients know it."""
    return f"toolu_{call_id}"
