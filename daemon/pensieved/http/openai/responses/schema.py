"""What clients of responses send. Unknown fields are ignored; null means absent.

Input items and tools are read in two steps, since an item without `type` is a message and since kinds of both
are many: the ones known here have a struct, others are named in the refusal.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pensieved.http.openai.schema import (
    Count,
    Effort,
    ModelName,
    SamplingFields,
    Schema,
    ToolMode,
    ToolName,
    Top,
)


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    """Text of the user's side."""

    text: str


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """Text of the model."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """A refusal of the model, which is text like any."""

    refusal: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    """A picture."""


class InputFile(msgspec.Struct, tag_field="type", tag="input_file"):
    """A document."""


Part = InputText | OutputText | RefusalPart | InputImage | InputFile


class MessageItem(msgspec.Struct):
    """A turn."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]


class CallItem(msgspec.Struct):
    """A call that the model made; `arguments` is a JSON object, as text."""

    call_id: str
    name: str
    arguments: str


class CallOutputItem(msgspec.Struct):
    """What a call returned."""

    call_id: str
    output: str | list[Part]


class ReasoningText(msgspec.Struct):
    """A piece of reasoning."""

    text: str


class ReasoningItem(msgspec.Struct):
    """Reasoning of an earlier turn. Its summary is for people, and encrypted reasoning is OpenAI's own."""

    content: list[ReasoningText] | None = None


ITEMS: dict[str, type[msgspec.Struct]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
}


class FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    """A tool that the client runs."""

    name: ToolName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class NamedTool(msgspec.Struct, tag_field="type", tag="function"):
    """This function must be called."""

    name: str


class AllowedChoice(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    """Only these tools."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema", rename={"schema_": "schema"}):
    """JSON that is valid against a schema."""

    name: str
    schema_: Schema
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    """The form of the answer's text."""

    format: TextFormat | ObjectFormat | SchemaFormat | None = None


class Reasoning(msgspec.Struct):
    """How much to reason."""

    effort: Effort | None = None


class ResponsesRequest(SamplingFields, kw_only=True):
    """POST /v1/responses."""

    model: ModelName
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolMode | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Top | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    prompt: dict[str, Any] | None = None


responses_decoder = msgspec.json.Decoder(ResponsesRequest)
