"""What an answer must look like, in llguidance's notation, for the engine to enforce while it decodes.

Three things can be asked for: an answer that is valid against a JSON schema, an answer that calls tools with valid
arguments (`tool_choice` any or a name), and one that may do as it likes but whose calls are valid (`strict`). Before
any of them a thinking model may think: the grammar begins behind that.

A grammar here is one Lark text for what stands around the JSON, plus one schema for each piece of JSON, each a
document of its own, so that `$ref: "#/…"` keeps its meaning. The call's frame is written exactly as the model's own
template writes it (`toolformat`). The tools differ by their names, which stand before the arguments, so that a call's
schema is settled before its first byte.

A marker that is one token of the vocabulary can come as that token or spelled out, and llguidance distinguishes the
two: grammars here take both, since the parser does.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from llguidance import LLMatcher

from pensieved.chat.conversation import ToolMode
from pensieved.chat.schema import compiled
from pensieved.chat.toolformat import Style
from pensieved.errors import RequestError, RequestErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pensieved.chat.conversation import ToolChoice, ToolDefinition
    from pensieved.chat.schema import Schema
    from pensieved.chat.toolformat import ToolFormat

ANY_OBJECT: Schema = {"type": "object"}
"""The schema of "any JSON object"."""

# Without `no_forcing`, llguidance tokenizes text that must come and allows only its first token. Where the tokenizer
# cannot give back every byte (SmolLM2 has no token for some, others drop a space), that token is a wrong one, and
# nothing can follow it (guidance-ai/llguidance#366). So the model chooses among all tokens that fit.
_PRELUDE = r"""%llguidance {"no_forcing": true}
TEXT: /(.|\n)*/
GAP: /[ \n\t]{0,4}/
"""


class Thinking(StrEnum):
    """How an answer may begin."""

    NONE = "none"  # with the answer
    OPTIONAL = "optional"  # the model may open a block of thinking
    OPEN = "open"  # the prompt has opened one: the model closes it


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What a grammar must know of the model.

    Attributes:
        tokens: ids of the tokenizer's added tokens, special or not, by their text.
        think_begin: what opens a block of thinking.
        think_end: what closes it.
    """

    tokens: Mapping[str, int] = {}
    think_begin: str = "<think>"
    think_end: str = "</think>"


def check_schema(schema: Schema | bool, path: str) -> None:
    """Refuse a schema that cannot be enforced, in the dialect's own words for its place.

    Raises:
        RequestError: INVALID; its path is `path` or a place below it.
    """
    compiled(schema, path)


def answer_grammar(
    schema: Schema | bool, marks: Marks, *, thinking: Thinking = Thinking.NONE, path: str = "schema"
) -> str:
    """The whole answer is JSON, valid against `schema`; `ANY_OBJECT` is the schema of JSON mode.

    Raises:
        RequestError: INVALID, for a schema that cannot be enforced.
    """
    grammar = _Grammar(marks)
    grammar.rule("body", grammar.json("answer", compiled(schema, path)))
    return grammar.text(thinking)


def tool_grammar(
    tools: Sequence[ToolDefinition],
    form: ToolFormat,
    choice: ToolChoice,
    marks: Marks,
    *,
    thinking: Thinking = Thinking.NONE,
    schema: Schema | bool | None = None,
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
        path: the place of a tool's schema in the request, by index.

    Raises:
        RequestError: INVALID, for a schema that cannot be enforced, a name that is not offered, or strict tools
            that this model cannot be held to.
    """
    called = _called(tools, choice)
    if choice.mode is ToolMode.NONE or not called:
        return answer_grammar(schema, marks, thinking=thinking) if schema is not None else ""
    strict = any(tools[index].strict for index in called)
    if not choice.forced and not strict and schema is None:
        return ""
    if not choice.forced and not form.json_arguments:
        if strict:
            raise RequestError(
                RequestErrorKind.INVALID,
                "This model writes tool calls in a notation that cannot be held to a schema: leave `strict` out,"
                " or force the call with tool_choice.",
                path=path(next(index for index in called if tools[index].strict)),
            )
        form = form.forced
    grammar = _Grammar(marks)
    calls = _Calls(grammar, form.forced if choice.forced else form, parallel=choice.parallel)
    for index in called:
        tool = tools[index]
        held = choice.forced or tool.strict
        calls.add(index, tool.name, compiled(tool.schema if held else ANY_OBJECT, path(index)))
    if choice.forced:
        grammar.rule("body", calls.forced())
    elif schema is not None:
        answer = grammar.json("answer", compiled(schema, "schema"))
        grammar.rule("body", f"{answer} | {calls.forced()}" if form.begin else answer)
    else:
        grammar.rule("body", calls.free())
    return grammar.text(thinking)


def _called(tools: Sequence[ToolDefinition], choice: ToolChoice) -> list[int]:
    """Indexes of the tools that may be called."""
    if choice.mode is not ToolMode.TOOL:
        return list(range(len(tools)))
    called = [index for index, tool in enumerate(tools) if tool.name == choice.name]
    if not called:
        raise RequestError(
            RequestErrorKind.INVALID,
            f"tool_choice names {choice.name!r}, which is no tool.",
            path="tool_choice.name",
        )
    return called


class _Grammar:
    """A Lark text in the making, with the schemas that it refers to."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._rules: list[str] = []
        self._schemas: list[dict[str, object]] = []
        names = sorted((name for name in marks.tokens if name), key=len, reverse=True)
        self._token = re.compile("|".join(map(re.escape, names))) if names else None

    def rule(self, name: str, body: str) -> str:
        """Define a rule; returns its name."""
        self._rules.append(f"{name}: {body or _EMPTY}")
        return name.partition("[")[0]

    def json(self, name: str, schema: Schema) -> str:
        """JSON that is valid against a compiled schema."""
        self._schemas.append({"name": name, "json_schema": schema})
        return f"@{name}"

    def literal(self, text: str) -> str:
        """Exactly `text`, the tokens in it as such or spelled out."""
        parts: list[str] = []
        end = 0
        for match in self._token.finditer(text) if self._token else ():
            parts += [_quoted(text[end : match.start()]), self._either(match[0])]
            end = match.end()
        return " ".join(part for part in (*parts, _quoted(text[end:])) if part)

    def until(self, name: str, text: str) -> str:
        """Anything up to and including the first `text`."""
        token = self._marks.tokens.get(text)
        spelled = self.rule(f"{name}[lazy]", f"TEXT {_quoted(text)}")
        return spelled if token is None else f"({spelled} | TEXT <[{token}]>)"

    def text(self, thinking: Thinking) -> str:
        """The finished grammar of an answer that consists of the rule `body`, behind whatever may be thought."""
        start = "body"
        if thinking is not Thinking.NONE:
            thought = f"{self.until('thought', self._marks.think_end)} GAP"
            begin = self.literal(self._marks.think_begin)
            start = f"{thought} body" if thinking is Thinking.OPEN else f"({begin} {thought})? body"
        lark = "\n".join((_PRELUDE, f"start: {start}", *self._rules, ""))
        text = json.dumps({"grammars": [{"lark_grammar": lark}, *self._schemas]})
        problem = LLMatcher.validate_grammar(text)
        if problem:
            raise RequestError(
                RequestErrorKind.INVALID, f"The request's schemas are too complex together: {problem}"
            )
        return text

    def _either(self, token: str) -> str:
        return f"({_quoted(token)} | <[{self._marks.tokens[token]}]>)"


class _Calls:
    """Tool calls in one format."""

    def __init__(self, grammar: _Grammar, form: ToolFormat, *, parallel: bool) -> None:
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


_EMPTY = '""'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
