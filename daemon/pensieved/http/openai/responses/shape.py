"""The objects of a response: itself, its items, their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pensieved.http.openai.logprobs import ContentLogprob
from pensieved.http.openai.responses.schema import (
    AllowedChoice,
    FunctionTool,
    NamedTool,
    ResponsesRequest,
    TextFormat,
)

if TYPE_CHECKING:
    from pensieved.chat.events import Usage

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class TextPart(msgspec.Struct, tag_field="type", tag="output_text"):
    """Text of a message."""

    text: str = ""
    annotations: list[Any] = msgspec.field(default_factory=list)
    logprobs: list[ContentLogprob] = msgspec.field(default_factory=list)


class ReasoningPart(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    """Text of a reasoning."""

    text: str = ""


class MessageItem(msgspec.Struct, tag_field="type", tag="message"):
    """What the model said."""

    id: str
    status: Status = "in_progress"
    content: list[TextPart] = msgspec.field(default_factory=list)
    role: Literal["assistant"] = "assistant"


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning"):
    """What the model thought, in full; there is no summary."""

    id: str
    status: Status = "in_progress"
    content: list[ReasoningPart] = msgspec.field(default_factory=list)
    summary: list[Any] = msgspec.field(default_factory=list)


class CallItem(msgspec.Struct, tag_field="type", tag="function_call"):
    """A call; `arguments` is JSON text, cut off where the item is incomplete."""

    id: str
    call_id: str
    name: str
    status: Status = "in_progress"
    arguments: str = ""


Item = MessageItem | ReasoningItem | CallItem


class InputDetails(msgspec.Struct):
    """Of the prompt's tokens, those that a prompt cache held, and those written to it."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """Of the answer's tokens, those of reasoning."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct):
    """Why an answer is incomplete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


ErrorCode = Literal["server_error", "invalid_prompt"]


class ResponseError(msgspec.Struct):
    """Why a response failed."""

    code: ErrorCode
    message: str


class EchoedText(msgspec.Struct):
    """The form that was asked for."""

    format: Any


class EchoedReasoning(msgspec.Struct):
    """The effort that was asked for."""

    effort: str | None
    summary: str | None = None


class Response(msgspec.Struct, kw_only=True):
    """The whole. Whatever a request said is echoed, as OpenAI does; nothing is stored."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[Item] = msgspec.field(default_factory=list)
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: EchoedReasoning
    service_tier: Literal["default"] = "default"
    store: bool = False
    temperature: float | None
    text: EchoedText
    tool_choice: str | NamedTool | AllowedChoice
    tools: list[FunctionTool]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


def begin(
    request: ResponsesRequest, tools: list[FunctionTool], response_id: str, created_at: int
) -> Response:
    """The response to `request`, before anything was said. `tools` are those that can be called."""
    wanted = request.text.format if request.text and request.text.format else TextFormat()
    parallel = request.parallel_tool_calls
    return Response(
        id=response_id,
        created_at=created_at,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=request.model,
        parallel_tool_calls=parallel is None or parallel,
        reasoning=EchoedReasoning(request.reasoning.effort if request.reasoning else None),
        temperature=request.temperature,
        text=EchoedText(wanted),
        tool_choice=request.tool_choice or "auto",
        tools=tools,
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        user=request.user,
    )


def response_usage(usage: Usage) -> ResponseUsage:
    """Token counts in the form of responses."""
    return ResponseUsage(
        usage.input_tokens,
        InputDetails(usage.cached_tokens),
        usage.output_tokens,
        OutputDetails(usage.reasoning_tokens),
        usage.input_tokens + usage.output_tokens,
    )
