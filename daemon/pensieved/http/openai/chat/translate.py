"""Chat completions to neutral requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pensieved.chat.conversation import (
    Conversation,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Turn,
)
from pensieved.http.completion import CompletionRequest
from pensieved.http.jsonbody import check_depth
from pensieved.http.openai.chat import schema
from pensieved.http.openai.translate import (
    ANY_OBJECT,
    call_arguments,
    check_unique,
    refuse,
    sampling,
    stop_strings,
    thinking,
    tool,
    tool_choice,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.chat.conversation import Part, ToolDefinition

_SCHEMA_PATH = "response_format.json_schema.schema"
_SPEAKERS = {
    schema.SystemMessage: Role.SYSTEM,
    schema.DeveloperMessage: Role.SYSTEM,
    schema.UserMessage: Role.USER,
}


def to_completion(request: schema.ChatRequest) -> CompletionRequest:
    """The neutral request, of one choice.

    Raises:
        RequestError: INVALID, with the path of what cannot be answered.
    """
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return CompletionRequest(
        model=request.model,
        conversation=_conversation(request),
        max_tokens=limit,
        stop=stop_strings(request.stop),
        sampling=sampling(request),
        logprobs=_logprobs(request),
    )


def _logprobs(request: schema.ChatRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise refuse("top_logprobs", "top_logprobs needs logprobs to be true.")
    return None


def _conversation(request: schema.ChatRequest) -> Conversation:
    tools, choice = _tools(request)
    reason, effort = thinking(request.reasoning_effort)
    return Conversation(
        turns=_turns(request.messages),
        thinking=reason,
        effort=effort,
        tools=tools,
        tool_choice=choice,
        answer_schema=_answer_schema(request.response_format),
        answer_schema_path=_SCHEMA_PATH,
    )


def _answer_schema(
    wanted: schema.TextFormat | schema.ObjectFormat | schema.SchemaFormat | None,
) -> dict[str, Any] | None:
    match wanted:
        case schema.ObjectFormat():
            return ANY_OBJECT
        case schema.SchemaFormat(json_schema=named):
            if named.schema is None:
                raise refuse(_SCHEMA_PATH, "Field required")
            check_depth(named.schema, _SCHEMA_PATH)
            return named.schema
        case _:
            return None


def _tools(request: schema.ChatRequest) -> tuple[tuple[ToolDefinition, ...], ToolChoice]:
    if request.functions:
        raise refuse(
            "functions", "functions and function_call are no longer supported; use tools and tool_choice."
        )
    definitions = [_tool(item, f"tools.{index}") for index, item in enumerate(request.tools or ())]
    check_unique(definitions, [f"tools.{index}.function.name" for index in range(len(definitions))])
    names = [definition.name for definition in definitions]
    mode, named = "auto", None
    match request.tool_choice:
        case str():
            mode = request.tool_choice
        case schema.NamedTool(function=function):
            named = function.name
        case schema.AllowedChoice(allowed_tools=allowed):
            mode = allowed.mode
            names = [item.function.name for item in allowed.tools if item.function.name in names]
            definitions = [definition for definition in definitions if definition.name in names]
        case None:
            pass
    choice = tool_choice(mode, named, names, parallel=request.parallel_tool_calls)
    return tuple(definitions), choice


def _tool(item: schema.Tool, path: str) -> ToolDefinition:
    if not isinstance(item, schema.FunctionTool):
        raise refuse(f"{path}.type", "Only function tools are supported, not custom ones.")
    function = item.function
    return tool(
        function.name,
        function.description,
        function.parameters,
        strict=function.strict,
        path=f"{path}.function.parameters",
    )


def _turns(messages: Sequence[schema.Message]) -> tuple[Turn, ...]:
    """Turns in the order in which they were sent; an assistant's turn that says nothing is none."""
    turns = []
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        match message:
            case schema.AssistantMessage():
                turn = Turn(Role.ASSISTANT, _assistant(message, path))
                called |= {call.call_id: call.name for call in turn.calls}
                if not turn.parts:
                    continue
            case schema.ToolMessage():
                turn = Turn(Role.TOOL, (_result(message, called, path),))
            case _:
                turn = Turn(_SPEAKERS[type(message)], _text_parts(message.content, f"{path}.content"))
        turns.append(turn)
    if not turns:
        raise refuse("messages", "There is nothing to answer.")
    return tuple(turns)


def _assistant(message: schema.AssistantMessage, path: str) -> tuple[Part, ...]:
    reasoning = [ThinkingPart(message.reasoning_content)] if message.reasoning_content else []
    said = _text_parts(message.content or message.refusal or (), f"{path}.content")
    calls = [
        ToolCallPart(
            call.id,
            call.function.name,
            call_arguments(call.function.arguments, f"{path}.tool_calls.{index}.function.arguments"),
        )
        for index, call in enumerate(message.tool_calls or ())
    ]
    return (*reasoning, *said, *calls)


def _result(message: schema.ToolMessage, called: dict[str, str], path: str) -> ToolResultPart:
    if message.tool_call_id not in called:
        raise refuse(f"{path}.tool_call_id", "No earlier message calls a tool with this id.")
    text = "\n\n".join(part.text for part in _text_parts(message.content, f"{path}.content"))
    return ToolResultPart(message.tool_call_id, called[message.tool_call_id], text)


def _text_parts(content: str | Sequence[schema.Part], path: str) -> tuple[TextPart, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    parts = []
    for index, part in enumerate(content):
        match part:
            case schema.TextPart():
                parts.append(TextPart(part.text))
            case schema.RefusalPart():
                parts.append(TextPart(part.refusal))
            case _:
                kind = part.__struct_config__.tag
                raise refuse(f"{path}.{index}", f"this model takes text only, not {kind} parts")
    return tuple(parts)
