"""Tools, calls and results as a chat template wants them, which `toolprobe` has found out.

For a template that knows no tools they are text: described in the system text, in the generic format (docs/tools.md).
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from pensieved.chat.conversation import (
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    text_turn,
)
from pensieved.chat.toolformat import GENERIC, ToolFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pensieved.chat.conversation import ToolDefinition
    from pensieved.chat.template import Message


class CallIds(StrEnum):
    """Which identifiers of calls a template takes."""

    ANY = "any"
    NINE = "nine"  # nine letters and digits (Mistral)
    COUNTED = "counted"  # functions.NAME:NUMBER (Kimi)


class ToolShape(msgspec.Struct, frozen=True, kw_only=True):
    """What one template wants of calls and results."""

    form: ToolFormat  # how calls are written
    arguments_as_text: bool  # as JSON text, not as an object
    call_ids: CallIds
    parallel_calls: bool  # several calls in one turn
    user_after_results: bool  # a user's turn may follow results


def plain_turns(turns: Iterable[Turn]) -> list[Turn]:
    """Calls and results as text, in the generic format."""
    return [_plain_turn(turn) if turn.calls or turn.results else turn for turn in turns]


def bend_tools(turns: Sequence[Turn], shape: ToolShape) -> list[Turn]:
    """Split parallel calls, and put a user's text behind results into the last of them, where that is needed."""
    bent: list[Turn] = []
    for turn in turns:
        last = bent[-1] if bent else None
        if (
            last is not None
            and last.role is Role.TOOL
            and turn.role is Role.USER
            and not shape.user_after_results
        ):
            bent[-1] = _with_text(last, turn.text)
        elif last is not None and turn.role is Role.TOOL and len(last.calls) > 1 and not shape.parallel_calls:
            bent[-1:] = _one_by_one(last, turn)
        else:
            bent.append(turn)
    return bent


def tool_messages(turn: Turn, shape: ToolShape, numbers: dict[str, str], *, as_parts: bool) -> list[Message]:
    """An assistant's turn with calls, or a turn of results, as template messages.

    `numbers` maps clients' call ids to the template's, over a whole conversation.
    """
    if turn.role is Role.TOOL:
        return [
            {
                "role": Role.TOOL.value,
                "name": result.name,
                "tool_call_id": numbers.get(result.call_id, _call_id(result.call_id, result.name, 0, shape)),
                "content": content(result_text(result), as_parts=as_parts),
            }
            for result in turn.results
        ]
    for call in turn.calls:
        numbers[call.call_id] = _call_id(call.call_id, call.name, len(numbers), shape)
    calls = [_call(call, numbers[call.call_id], shape) for call in turn.calls]
    return [
        {
            "role": turn.role.value,
            "content": content(turn.text, as_parts=as_parts),
            **({"tool_calls": calls} if calls else {}),
        }
    ]


def content(text: str, *, as_parts: bool) -> Any:
    """A message's content as a template wants it."""
    return [{"type": "text", "text": text}] if as_parts else text


def result_text(result: ToolResultPart) -> str:
    """A result's text; templates have no other place for whether it is an error."""
    known = result.text.lstrip().lower().startswith(("error", "<tool_use_error>"))
    return f"Error: {result.text}" if result.is_error and not known else result.text


def definition(tool: ToolDefinition) -> dict[str, Any]:
    """A tool as templates get it."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
    }


def generic_description(tools: Sequence[ToolDefinition]) -> str:
    """System text that describes `tools` and how to call them (docs/tools.md)."""
    lines = "\n".join(_dumped(definition(tool)["function"]) for tool in tools)
    return (
        "# Tools\n\n"
        "You may call the functions described here, each by a JSON object with the schema of its arguments:\n"
        f"<tools>\n{lines}\n</tools>\n\n"
        "To call one, write a JSON object with its name and its arguments between tags, like this:\n"
        '<tool_call>\n{"name": "function-name", "arguments": {"argument-name": "value"}}\n</tool_call>\n'
        "What it returns follows between <tool_response> tags."
    )


def _plain_turn(turn: Turn) -> Turn:
    if turn.role is Role.TOOL:
        results = (f"<tool_response>\n{result_text(each)}\n</tool_response>" for each in turn.results)
        return text_turn(Role.USER, "\n".join(results))
    # Line for line what the model wrote, so that a prompt cache that holds it still fits.
    lines = [turn.text.removesuffix("\n")] if turn.text else []
    for call in turn.calls:
        lines += [GENERIC.begin, _dumped({"name": call.name, "arguments": call.arguments}), GENERIC.end]
    reasoning = tuple(part for part in turn.parts if isinstance(part, ThinkingPart))
    return Turn(turn.role, (*reasoning, TextPart("\n".join(lines))))


def _with_text(turn: Turn, text: str) -> Turn:
    *others, last = turn.results
    longer = msgspec.structs.replace(last, text=f"{result_text(last)}\n\n{text}", is_error=False)
    return Turn(Role.TOOL, (*others, longer))


def _one_by_one(calls: Turn, results: Turn) -> list[Turn]:
    """Each call with its own result behind it; the turn's text and reasoning stay with the first."""
    turns: list[Turn] = []
    rest = [part for part in calls.parts if not isinstance(part, ToolCallPart)]
    for call in calls.calls:
        turns.append(Turn(Role.ASSISTANT, (*rest, call)))
        rest = []
        own = tuple(result for result in results.results if result.call_id == call.call_id)
        turns += [Turn(Role.TOOL, own)] if own else []
    return turns


def _call_id(call_id: str, name: str, number: int, shape: ToolShape) -> str:
    if shape.call_ids is CallIds.COUNTED:
        return f"functions.{name}:{number}"
    return hashlib.sha256(call_id.encode()).hexdigest()[:9] if shape.call_ids is CallIds.NINE else call_id


def _call(call: ToolCallPart, call_id: str, shape: ToolShape) -> dict[str, Any]:
    arguments = _dumped(call.arguments) if shape.arguments_as_text else call.arguments
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
