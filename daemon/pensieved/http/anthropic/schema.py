"""What Anthropic clients send. Unknown fields are ignored, `metadata` and `service_tier` among them; null means absent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pensieved.http.anthropic.blocks import Block, CacheControl, NonEmpty, TextBlock

MOST_STOP_SEQUENCES = 256
LONGEST_STOP_SEQUENCE = 1024
LONGEST_NAME = 256
LEAST_THINKING = 1024

StopSequence = Annotated[str, Meta(min_length=1, max_length=LONGEST_STOP_SEQUENCE)]


class Message(msgspec.Struct):
    """One turn. Claude Code also sends system turns between the others."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool. One whose `type` is not custom is Anthropic's own: its server runs it, or its model knows its schema."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    input_examples: list[dict[str, Any]] | None = None


class AutoChoice(msgspec.Struct, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(msgspec.Struct, tag_field="type", tag="any"):
    """At least one call."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(msgspec.Struct, tag_field="type", tag="tool"):
    """A call of this tool."""

    name: NonEmpty
    disable_parallel_tool_use: bool | None = None


class NoChoice(msgspec.Struct, tag_field="type", tag="none"):
    """No call."""


class ThinkingEnabled(msgspec.Struct, tag_field="type", tag="enabled"):
    """Reason first, for so many tokens at most. `display` "omitted": do not show it."""

    budget_tokens: Annotated[int, Meta(ge=LEAST_THINKING)]
    display: str | None = None


class ThinkingAdaptive(msgspec.Struct, tag_field="type", tag="adaptive"):
    """Reason as long as it takes."""

    display: str | None = None


class ThinkingBetweenTools(msgspec.Struct, tag_field="type", tag="between_tools"):
    """Reason about tools' results only."""


class ThinkingDisabled(msgspec.Struct, tag_field="type", tag="disabled"):
    """Answer at once."""


class JsonSchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """The answer is JSON, valid against `schema`."""

    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How to answer."""

    effort: str | None = None
    format: JsonSchemaFormat | None = None


class ThreadCreate(msgspec.Struct, tag_field="type", tag="create"):
    """Keep the conversation, so that the next request need not repeat it. Nothing is kept here."""


class ThreadContinue(msgspec.Struct, tag_field="type", tag="continue"):
    """The messages follow those of a conversation that was kept."""

    previous_message_id: str


class PromptFields(msgspec.Struct, kw_only=True):
    """What makes up the prompt; also the whole of a count_tokens request.

    `output_format` is the beta's name. `cache_control` here marks the last block.
    """

    model: Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingBetweenTools | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    output_format: JsonSchemaFormat | None = None
    thread: ThreadCreate | ThreadContinue | None = None
    cache_control: CacheControl | None = None


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
