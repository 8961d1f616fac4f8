"""Anthropic's tools and tool_choice to neutral ones."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import structlog

from pensieved.chat.conversation import ToolChoice, ToolDefinition, ToolMode
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic import schema as wire
from pensieved.http.jsonbody import check_depth

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger()

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)


def tool_definitions(tools: Sequence[wire.Tool]) -> tuple[ToolDefinition, ...]:
    """The tools that a model can be told about.

    Those of Anthropic's own have no schema here and are left out, with a line in the log.

    Raises:
        RequestError: INVALID, with the path of the offending field.
    """
    defined: dict[str, ToolDefinition] = {}
    left_out: list[str] = []
    for index, tool in enumerate(tools):
        path = f"tools.{index}"
        if tool.type not in {None, "custom"}:
            left_out.append(tool.type or "")
            continue
        checked = _definition(tool, path)
        if checked.name in defined:
            raise _invalid("Tool names must be unique.", f"{path}.name")
        defined[checked.name] = checked
    if left_out:
        log.info("tools of Anthropic's own are left out", types=left_out)
    return tuple(defined.values())


def tool_choice(choice: object, tools: Sequence[ToolDefinition]) -> ToolChoice:
    """What the client wants of `tools`.

    Raises:
        RequestError: INVALID, where a call is forced that cannot be made.
    """
    parallel = not getattr(choice, "disable_parallel_tool_use", None)
    match choice:
        case wire.AnyChoice():
            if not tools:
                raise _invalid(
                    "a call cannot be forced: there is no tool with an input_schema", "tool_choice"
                )
            return ToolChoice(mode=ToolMode.ANY, parallel=parallel)
        case wire.ToolChoice():
            if choice.name not in {tool.name for tool in tools}:
                raise _invalid(
                    f"Tool '{choice.name}' is not among the tools with an input_schema", "tool_choice.name"
                )
            return ToolChoice(mode=ToolMode.TOOL, name=choice.name, parallel=parallel)
        case wire.NoChoice():
            return ToolChoice(mode=ToolMode.NONE)
        case _:
            return ToolChoice(parallel=parallel)


def _definition(tool: wire.Tool, path: str) -> ToolDefinition:
    if tool.name is None:
        raise _invalid("Field required", f"{path}.name")
    if not _NAME.fullmatch(tool.name):
        raise _invalid("String should match pattern '^[a-zA-Z0-9_-]{1,128}$'", f"{path}.name")
    if tool.input_schema is None:
        raise _invalid("Field required", f"{path}.input_schema")
    check_depth(tool.input_schema, f"{path}.input_schema")
    if tool.input_schema.get("type", "object") != "object":
        raise _invalid("Input should be 'object'", f"{path}.input_schema.type")
    description = tool.description or ""
    if tool.input_examples:
        check_depth(tool.input_examples, f"{path}.input_examples")
        examples = "\n".join(json.dumps(example, ensure_ascii=False) for example in tool.input_examples)
        description = f"{description}\n\nExamples of input:\n{examples}".strip()
    return ToolDefinition(
        name=tool.name,
        description=description,
        schema=tool.input_schema,
        strict=bool(tool.strict),
        path=f"{path}.input_schema",
        ends_prefix=tool.cache_control is not None,
    )


def _invalid(what: str, path: str) -> RequestError:
    return RequestError(RequestErrorKind.INVALID, what, path=path)
