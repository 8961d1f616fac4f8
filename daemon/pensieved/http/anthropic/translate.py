"""Anthropic requests to neutral ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.chat.conversation import Conversation, Role, TextPart, Turn, merge_turns
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic.blocks import TextBlock
from pensieved.http.anthropic.caching import end_marked
from pensieved.http.anthropic.content import Reader
from pensieved.http.anthropic.errors import ThreadNotFoundError
from pensieved.http.anthropic.schema import (
    ThinkingAdaptive,
    ThinkingBetweenTools,
    ThinkingDisabled,
    ThinkingEnabled,
    ThreadContinue,
)
from pensieved.http.anthropic.tools import tool_choice, tool_definitions
from pensieved.http.completion import CompletionRequest, SamplingWishes
from pensieved.http.jsonbody import check_depth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pensieved.http.anthropic.schema import MessagesRequest, PromptFields
    from pensieved.http.anthropic.signature import Signer

_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def to_completion(request: MessagesRequest, signer: Signer) -> CompletionRequest:
    """The neutral request.

    Raises:
        RequestError: INVALID, with the path of content that cannot be answered.
    """
    thinking = request.thinking
    if isinstance(thinking, ThinkingEnabled) and 0 < request.max_tokens <= thinking.budget_tokens:
        raise RequestError(
            RequestErrorKind.INVALID,
            "`max_tokens` must be greater than `thinking.budget_tokens`",
            path="max_tokens",
        )
    return CompletionRequest(
        model=request.model,
        conversation=to_conversation(request, signer),
        max_tokens=request.max_tokens,
        stop=tuple(dict.fromkeys(request.stop_sequences or ())),
        sampling=SamplingWishes(temperature=request.temperature, top_p=request.top_p, top_k=request.top_k),
        prewarm=request.max_tokens == 0,
    )


def to_conversation(request: PromptFields, signer: Signer) -> Conversation:
    """Turns in the order in which they were sent: the system prompt first, inner system turns where they stand.

    Neighbouring turns of one role are one. The dialect turns reasoning on by request only.
    """
    if isinstance(request.thread, ThreadContinue):
        raise ThreadNotFoundError
    tools = tool_definitions(request.tools or ())
    choice = tool_choice(request.tool_choice, tools)
    thinking = request.thinking
    if choice.forced and isinstance(thinking, ThinkingEnabled):
        raise RequestError(
            RequestErrorKind.INVALID,
            "Thinking may not be enabled when tool_choice forces tool use.",
            path="thinking",
        )
    turns = _turns(request, signer)
    if request.cache_control is not None:
        turns = end_marked(turns)
    schema, schema_path = _answer_schema(request)
    effort = request.output_config.effort if request.output_config else None
    return Conversation(
        turns,
        thinking=_thinks(request, turns) and not choice.forced,
        tools=tools,
        tool_choice=choice,
        effort=_EFFORTS.get(effort) if effort else None,
        thinking_budget=thinking.budget_tokens if isinstance(thinking, ThinkingEnabled) else None,
        answer_schema=schema,
        answer_schema_path=schema_path,
    )


def _turns(request: PromptFields, signer: Signer) -> tuple[Turn, ...]:
    system = request.system or ()
    blocks = [TextBlock(system)] if isinstance(system, str) else system
    parts = tuple(TextPart(block.text, block.cache_control is not None) for block in blocks if block.text)
    turns = [Turn(Role.SYSTEM, parts)] if parts else []
    reader = Reader(signer)
    last = len(request.messages) - 1
    for index, message in enumerate(request.messages):
        read = reader.turns(message, f"messages.{index}")
        turns += read
        may_be_empty = message.role == "system" or (message.role == "assistant" and index == last)
        if not read and not may_be_empty:
            raise RequestError(
                RequestErrorKind.INVALID,
                "all messages must have non-empty content except for the optional final assistant message",
                path=f"messages.{index}.content",
            )
    reader.check_answered()
    return merge_turns(turns)


def _thinks(request: PromptFields, turns: Sequence[Turn]) -> bool:
    match request.thinking:
        case ThinkingEnabled() | ThinkingAdaptive():
            return True
        case ThinkingBetweenTools():
            return bool(turns) and turns[-1].role is Role.TOOL
        case ThinkingDisabled() | None:
            return False


def _answer_schema(request: PromptFields) -> tuple[dict[str, Any] | None, str]:
    config = request.output_config
    if config is not None and config.format is not None:
        form, path = config.format, "output_config.format.schema"
    elif request.output_format is not None:
        form, path = request.output_format, "output_format.schema"
    else:
        return None, ""
    check_depth(form.schema, path)
    return form.schema, path
