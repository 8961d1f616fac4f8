"""What clients of chat completions send. Unknown fields are ignored; null means absent.

Content that is known but not supported yet is in the schema, so that it is refused by name and place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pensieved.http.openai.schema import Count, Effort, GeneratingFields, Schema, ToolMode, ToolName, Top


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """An assistant's refusal, which is text like any."""

    refusal: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """A picture."""


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    """Speech."""


class FilePart(msgspec.Struct, tag_field="type", tag="file"):
    """A document."""


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    """Instructions."""

    content: str | list[Part]


class DeveloperMessage(msgspec.Struct, tag_field="role", tag="developer"):
    """Instructions, by their newer name."""

    content: str | list[Part]


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    """The user's turn."""

    content: str | list[Part]


class CalledFunction(msgspec.Struct):
    """`arguments` is a JSON object, as text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    """A call that the model made."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    """The model's turn. `reasoning_content` is not OpenAI's; many servers and clients exchange it."""

    content: str | list[Part] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool"):
    """What a call returned."""

    tool_call_id: str
    content: str | list[Part]


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(msgspec.Struct):
    """A tool's definition; `parameters` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    """A tool that the client runs."""

    function: Function


class CustomTool(msgspec.Struct, tag_field="type", tag="custom"):
    """A tool whose input is free text."""


Tool = FunctionTool | CustomTool


class FunctionName(msgspec.Struct):
    """Which function."""

    name: str


class NamedTool(msgspec.Struct, tag_field="type", tag="function"):
    """This function must be called."""

    function: FunctionName


class AllowedTools(msgspec.Struct):
    """A choice among some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedChoice(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    """Only these tools."""

    allowed_tools: AllowedTools


class NamedSchema(msgspec.Struct):
    """A JSON schema for the answer."""

    name: str
    schema: Schema | None = None


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON that is valid against a schema."""

    json_schema: NamedSchema


class ChatRequest(GeneratingFields, kw_only=True):
    """POST /v1/chat/completions. `max_completion_tokens` wins over its older name."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolMode | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    reasoning_effort: Effort | None = None
    functions: list[Any] | None = None


chat_decoder = msgspec.json.Decoder(ChatRequest)
