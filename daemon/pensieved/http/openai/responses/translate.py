"""Responses to neutral requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from pensieved.chat.conversation import (
    Conversation,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Turn,
    text_turn,
)
from pensieved.http.completion import CompletionRequest
from pensieved.http.jsonbody import check_depth, invalid
from pensieved.http.openai.responses import schema
from pensieved.http.openai.translate import (
    ANY_OBJECT,
    call_arguments,
    check_unique,
    refuse,
    sampling,
    thinking,
    tool,
    tool_choice,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pensieved.chat.conversation import ToolDefinition

log = structlog.get_logger()

_SCHEMA_PATH = "text.format.schema"
LOGPROBS = "message.output_text.logprobs"
"""The member of `include` that asks for log-probabilities."""

_ROLES = {"developer": Role.SYSTEM, "system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


def to_completion(
    request: schema.ResponsesRequest, tools: Sequence[schema.FunctionTool]
) -> CompletionRequest:
    """The neutral request.

    Args:
        request: as it came.
        tools: those of its tools that can be called, from `function_tools`.

    Raises:
        RequestError: INVALID, with the path of what cannot be answered.
    """
    _check_stateless(request)
    return CompletionRequest(
        model=request.model,
        conversation=_conversation(request, tools),
        max_tokens=request.max_output_tokens,
        sampling=sampling(request),
        logprobs=request.top_logprobs or 0 if wants_logprobs(request) else None,
    )


def wants_logprobs(request: schema.ResponsesRequest) -> bool:
    """Whether log-probabilities are part of the answer."""
    return LOGPROBS in (request.include or ()) or bool(request.top_logprobs)


def function_tools(request: schema.ResponsesRequest) -> list[schema.FunctionTool]:
    """The tools that the model may call.

    Those that OpenAI itself would run (web search and the like) are left out: the model is not told of them.
    A custom tool is the client's to run, which would wait for calls of it in vain.

    Raises:
        RequestError: a tool is malformed or custom.
    """
    tools, left_out = [], []
    for index, item in enumerate(request.tools or ()):
        kind = item.get("type")
        if kind == "function":
            tools.append(_convert(item, schema.FunctionTool, f"tools.{index}"))
        elif kind == "custom" or not isinstance(kind, str):
            raise refuse(f"tools.{index}.type", f"Only function tools are supported, not {kind!r}.")
        else:
            left_out.append(kind)
    if left_out:
        log.info("tools of OpenAI's own are left out", types=left_out)
    return tools


def _check_stateless(request: schema.ResponsesRequest) -> None:
    """Refuse what needs a store: leaving it out silently would drop half of the conversation."""
    for name in ("previous_response_id", "conversation"):
        if getattr(request, name) is not None:
            raise refuse(name, "Responses are not stored here: send the whole conversation as input.")
    if request.background:
        raise refuse("background", "Responses are not stored here, so none can be made in the background.")
    if request.prompt is not None:
        raise refuse("prompt", "Prompt templates are stored at OpenAI: send input and instructions.")


def _conversation(request: schema.ResponsesRequest, functions: Sequence[schema.FunctionTool]) -> Conversation:
    definitions, choice = _tools(request, functions)
    reason, effort = thinking(request.reasoning.effort if request.reasoning else None)
    return Conversation(
        turns=_turns(request),
        thinking=reason,
        effort=effort,
        tools=tuple(definitions),
        tool_choice=choice,
        answer_schema=_answer_schema(request.text),
        answer_schema_path=_SCHEMA_PATH,
    )


def _answer_schema(text: schema.TextOptions | None) -> dict[str, Any] | None:
    match text.format if text else None:
        case schema.ObjectFormat():
            return ANY_OBJECT
        case schema.SchemaFormat() as named:
            check_depth(named.schema_, _SCHEMA_PATH)
            return named.schema_
        case _:
            return None


def _tools(
    request: schema.ResponsesRequest, functions: Sequence[schema.FunctionTool]
) -> tuple[list[ToolDefinition], ToolChoice]:
    places = [
        f"tools.{index}" for index, item in enumerate(request.tools or ()) if item.get("type") == "function"
    ]
    definitions = [
        tool(item.name, item.description, item.parameters, strict=item.strict, path=f"{place}.parameters")
        for place, item in zip(places, functions, strict=True)
    ]
    check_unique(definitions, [f"{place}.name" for place in places])
    names = [definition.name for definition in definitions]
    mode, named = "auto", None
    match request.tool_choice:
        case str() as mode:
            pass
        case schema.NamedTool():
            named = request.tool_choice.name
        case schema.AllowedChoice():
            mode = request.tool_choice.mode
            names = [item.name for item in request.tool_choice.tools if item.name in names]
            definitions = [definition for definition in definitions if definition.name in names]
        case None:
            pass
    return definitions, tool_choice(mode, named, names, parallel=request.parallel_tool_calls)


def _turns(request: schema.ResponsesRequest) -> tuple[Turn, ...]:
    """Instructions first, then the items in the order in which they were sent."""
    turns = [text_turn(Role.SYSTEM, request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        return (*turns, text_turn(Role.USER, request.input))
    called: dict[str, str] = {}
    for index, item in enumerate(request.input):
        turn = _turn(item, called, f"input.{index}")
        if turn.parts:
            turns.append(turn)
    if not turns:
        raise refuse("input", "There is nothing to answer.")
    return _joined(turns)


def _joined(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """What the model said in several items (reasoning, text, calls) was one turn; so are the results of its calls."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role is turn.role and turn.role in {Role.ASSISTANT, Role.TOOL}:
            joined[-1] = Turn(turn.role, joined[-1].parts + turn.parts)
        else:
            joined.append(turn)
    return tuple(joined)


def _turn(item: Mapping[str, Any], called: dict[str, str], path: str) -> Turn:
    kind = item.get("type") or "message"
    struct = schema.ITEMS.get(kind) if isinstance(kind, str) else None
    if struct is None:
        raise refuse(f"{path}.type", f"Items of type {kind!r} are not supported.")
    match _convert(item, struct, path):
        case schema.MessageItem(role=role, content=content):
            return Turn(_ROLES[role], _text_parts(content, f"{path}.content"))
        case schema.CallItem(call_id=call_id, name=name, arguments=arguments):
            called[call_id] = name
            return Turn(
                Role.ASSISTANT,
                (ToolCallPart(call_id, name, call_arguments(arguments, f"{path}.arguments")),),
            )
        case schema.CallOutputItem(call_id=call_id, output=output):
            if call_id not in called:
                raise refuse(f"{path}.call_id", "No earlier item calls a tool with this id.")
            text = "\n\n".join(part.text for part in _text_parts(output, f"{path}.output"))
            return Turn(Role.TOOL, (ToolResultPart(call_id, called[call_id], text),))
        case schema.ReasoningItem(content=content):
            return Turn(Role.ASSISTANT, tuple(ThinkingPart(part.text) for part in content or ()))
    raise AssertionError(kind)


def _text_parts(content: str | Sequence[schema.Part], path: str) -> tuple[TextPart, ...]:
    if isinstance(content, str):
        return (TextPart(content),) if content else ()
    parts = []
    for index, part in enumerate(content):
        match part:
            case schema.InputText() | schema.OutputText():
                parts.append(TextPart(part.text))
            case schema.RefusalPart():
                parts.append(TextPart(part.refusal))
            case _:
                kind = part.__struct_config__.tag
                raise refuse(f"{path}.{index}", f"this model takes text only, not {kind} parts")
    return tuple(parts)


def _convert(item: Mapping[str, Any], struct: type[Any], path: str) -> Any:
    try:
        return msgspec.convert(item, struct)
    except msgspec.ValidationError as error:
        raise invalid(error, path) from error
