"""What Anthropic clients send. Unknown fields are ignored, `cache_control` among them; null means absent.

Content that is known but not supported yet is in the schema, so that it is refused by name and place.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_STOP_SEQUENCES = 256
LONGEST_STOP_SEQUENCE = 1024
LONGEST_NAME = 256

StopSequence = Annotated[str, Meta(min_length=1, max_length=LONGEST_STOP_SEQUENCE)]


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    """A picture."""


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    """A document."""


class SearchResultBlock(msgspec.Struct, tag_field="type", tag="search_result"):
    """A passage found by the client."""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call the model made."""


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    """What a call returned."""


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """Reasoning of an earlier turn; it is not part of the prompt, as with Anthropic."""


class RedactedThinkingBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Encrypted reasoning of an earlier turn."""


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
)


class Message(msgspec.Struct):
    """One turn. Claude Code also sends system turns between the others."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class PromptFields(msgspec.Struct, kw_only=True):
    """What makes up the prompt; also the whole of a count_tokens request."""

    model: Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None


class MessagesRequest(PromptFields, kw_only=True):
    """POST /v1/messages. `max_tokens` 0 asks for no answer; `top_k` below 1 is off."""

    max_tokens: Annotated[int, Meta(ge=0)]
    stream: bool | None = None
    stop_sequences: Annotated[list[StopSequence], Meta(max_length=MOST_STOP_SEQUENCES)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None


messages_decoder = msgspec.json.Decoder(MessagesRequest)
count_decoder = msgspec.json.Decoder(PromptFields)
