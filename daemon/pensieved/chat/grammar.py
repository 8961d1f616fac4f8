"""What an answer must look like, in llguidance's notation, for the engine to enforce while it decodes.

Three things can be asked for: an answer that is valid against a JSON schema, an answer that calls tools with valid
arguments (`tool_choice` any or a name), and one that may do as it likes but whose calls are valid (`strict`). Before
any of them a thinking model may think: the grammar begins behind that.

A grammar here is one Lark text for what stands around the JSON, plus one schema for each piece of JSON, each a
document of its own, so that `$ref: "#/…"` keeps its meaning. The call's frame is written exactly as the model's own
template writes it (`toolformat`). The tools differ by their names, which stand before the arguments, so that a call's
schema is settled before its first byte.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pensieved.chat.channels import ANSWER, NEXT, PREAMBLE
from pensieved.chat.conversation import ToolMode
from pensieved.chat.lark import Grammar, Marks, Thinking
from pensieved.chat.schema import compiled
from pensieved.chat.toolformat import Style
from pensieved.errors import RequestError, RequestErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pensieved.chat.conversation import ToolChoice, ToolDefinition
    from pensieved.chat.schema import AnySchema, Schema
    from pensieved.chat.toolformat import ToolFormat

__all__ = ["ANY_OBJECT", "Marks", "Thinking", "answer_grammar", "check_schema", "tool_grammar"]

ANY_OBJECT: Schema = {"type": "object"}
"""The schema of "any JSON object"."""


def check_schema(schema: AnySchema, path: str) -> None:
    """Refuse a schema that cannot be enforced, in the dialect's own words for its place.

    Raises:
        RequestError: INVALID; its path is `path` or a place below it.
    """
    compiled(schema, path)


def answer_grammar(
    schema: AnySchema, marks: Marks, *, thinking: Thinking = Thinking.NONE, path: str = "schema"
) -> str:
    """The whole answer is JSON, valid against `schema`; `ANY_OBJECT` is the schema of JSON mode.

    Raises:
        RequestError: INVALID, for a schema that cannot be enforced.
    """
    grammar = Grammar(marks)
    grammar.rule("body", grammar.answer(compiled(schema, path)))
    return grammar.text(thinking)


def tool_grammar(
    tools: Sequence[ToolDefinition],
    form: ToolFormat,
    choice: ToolChoice,
    marks: Marks,
    *,
    thinking: Thinking = Thinking.NONE,
    schema: AnySchema | None = None,
    schema_path: str = "schema",
    path: Callable[[int], str] = "tools.{}".format,
) -> str:
    """The grammar of an answer where `tools` are offered; empty where it is free.

    A forced call comes in `form.forced`, which has JSON arguments; elsewhere tools can only be held to their schemas
    if the model's own format has.

    Args:
        tools: what the model may call, names unique.
        form: how the model writes calls.
        choice: what the client wants of them.
        marks: what the model is like.
        thinking: how the answer may begin.
        schema: what an answer that calls no tool must be valid against; None leaves it free.
        schema_path: the place of that schema in the request.
        path: the place of a tool's schema in the request, by index.

    Raises:
        RequestError: INVALID, for a schema that cannot be enforced, a name that is not offered, or strict tools
            that this model cannot be held to.
    """
    called = _called(tools, choice)
    if not called:
        return (
            answer_grammar(schema, marks, thinking=thinking, path=schema_path) if schema is not None else ""
        )
    strict = [index for index in called if tools[index].strict]
    if not choice.forced and not strict and schema is None:
        return ""
    if strict and not choice.forced and not form.json_arguments:
        raise RequestError(RequestErrorKind.INVALID, _NOT_JSON, path=path(strict[0]))
    grammar = Grammar(marks)
    calls = _Calls(grammar, form.forced, parallel=choice.parallel)
    for index in called:
        held = choice.forced or index in strict
        calls.add(
            index, tools[index].name, compiled(tools[index].schema if held else ANY_OBJECT, path(index))
        )
    if schema is not None and not choice.forced:
        answer = grammar.answer(compiled(schema, schema_path))
        grammar.rule("body", f"{answer} | {calls.forced()}" if form.begin else answer)
    else:
        grammar.rule("body", calls.forced() if choice.forced else calls.free())
    return grammar.text(thinking)


_NOT_JSON = (
    "This model writes tool calls in a notation that cannot be held to a schema: leave `strict` out,"
    " or force the call with tool_choice."
)


def _called(tools: Sequence[ToolDefinition], choice: ToolChoice) -> list[int]:
    """Indexes of the tools that may be called."""
    if choice.mode is not ToolMode.TOOL:
        return [] if choice.mode is ToolMode.NONE else list(range(len(tools)))
    called = [index for index, tool in enumerate(tools) if tool.name == choice.name]
    if not called:
        raise RequestError(
            RequestErrorKind.INVALID,
            f"tool_choice names {choice.name!r}, which is no tool.",
            path="tool_choice.name",
        )
    return called


class _Calls:
    """Tool calls in one format."""

    def __init__(self, grammar: Grammar, form: ToolFormat, *, parallel: bool) -> None:
        self._grammar = grammar
        self._form = form
        self._parallel = parallel
        self._names: list[str] = []

    def add(self, index: int, name: str, schema: Schema) -> None:
        """A tool that may be called."""
        form, grammar = self._form, self._grammar
        written = json.dumps(name, ensure_ascii=False)[1:-1] if form.style is Style.OBJECT else name
        frame = grammar.literal(f"{form.before}{written}{form.middle}")
        arguments = grammar.json(f"arguments_{index}", schema)
        self._names.append(
            grammar.rule(f"call_{index}", f"{frame} {arguments} {grammar.literal(form.after)}")
        )

    def forced(self) -> str:
        """Calls from the answer's first byte on."""
        form, grammar = self._form, self._grammar
        begin = grammar.literal(form.begin)
        if not form.wrapped:
            return f"{begin} {self._group()}"
        wrapped = grammar.rule("wrapped", f"{begin} {self._group()}")
        more = f"({grammar.literal(form.separator)} {wrapped})*" if self._parallel else ""
        return f"{wrapped} {more}"

    def free(self) -> str:
        """Text, in which whatever begins as a call is one."""
        form, grammar = self._form, self._grammar
        if form.channels:  # messages, the last of which is an answer or a call
            said = grammar.rule("said", f"{grammar.literal(PREAMBLE)} TEXT {grammar.literal(NEXT)}")
            return f"{said}* ({grammar.literal(ANSWER)} TEXT | {self.forced()})"
        if not form.begin:  # a call is the whole answer, and an object is what tells it from text
            grammar.rule("TALK", r"/[ \n\t]*[^ \n\t{](.|\n)*/")
            return f"TALK? | {self.forced()}"
        called = grammar.rule("called", f"{grammar.until('talk', form.begin)} {self._group()}")
        if self._parallel and form.wrapped:
            return f"{called}* TEXT"
        return f"TEXT | {called} GAP"

    def _group(self) -> str:
        """What stands behind `begin`: one call where they are wrapped, or all of them."""
        form, grammar = self._form, self._grammar
        call = grammar.rule("call", " | ".join(self._names))
        if not form.wrapped and self._parallel:
            call = f"{call} ({grammar.literal(form.separator)} {call})*"
        if form.array:
            call = f'"[" {call} "]"'
        gap = grammar.literal(form.gap)
        return f"{gap} {call} {gap} {grammar.literal(form.end)}" if form.end else f"{gap} {call}"
