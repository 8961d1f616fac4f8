"""Reading calls in notations of their own, which are short and read when they are complete.

LFM writes a Python list of calls, ``[name(key="value")]``; Gemma writes ``call:name{key:value}`` with marks of
its own around strings.
"""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from pensieved.chat.callfeed import CutError
from pensieved.chat.jsonscan import DEEPEST, MalformedError
from pensieved.chat.values import written_json

if TYPE_CHECKING:
    from pensieved.chat.callfeed import CallWriter, Feed, Reading
    from pensieved.chat.toolformat import ToolFormat

Call = tuple[str, dict[str, Any]]

_UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def read_closed_calls(feed: Feed, write: CallWriter, form: ToolFormat) -> Reading:
    """One section; where the answer ends without the end marker, what is there must be whole calls."""
    yield from feed.literal(form.begin)
    start = feed.at
    try:
        text = yield from feed.until(form.end)
    except CutError:
        text = feed.text[start:]
        feed.at = len(feed.text)
    try:
        calls = pythonic(text) if form.parser == "pythonic" else gemma(text, _MARKS[form.parser])
        written = [(name, written_json(arguments)) for name, arguments in calls]
    except _UNREADABLE as error:
        raise MalformedError("no call in this notation") from error
    if not written:
        raise MalformedError("no call")
    for name, arguments in written:
        write.whole(name, arguments)


def pythonic(text: str) -> list[Call]:
    """A Python expression: a call with keyword arguments, or a list of them."""
    tree = ast.parse(text.strip(), mode="eval").body
    nodes = tree.elts if isinstance(tree, ast.List) else [tree]
    return [_python_call(node) for node in nodes]


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise MalformedError("a call with keyword arguments")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise MalformedError("keyword arguments have names")
        arguments[keyword.arg] = ast.literal_eval(_JsonWords().visit(keyword.value))
    return ast.unparse(node.func), arguments


class _JsonWords(ast.NodeTransformer):
    """Templates write nested values as JSON, so models write its words among Python's."""

    _values = {"true": True, "false": False, "null": None}  # noqa: RUF012  a constant

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self._values:
            return node
        return ast.copy_location(ast.Constant(self._values[node.id]), node)


_MARKS = {"gemma4": '<|"|>', "function_gemma": "<escape>"}
_CALL = re.compile(r"\s*call:([\w.-]+)\s*")
_KEY = re.compile(r"\s*[\"']?([^\s\"':{}\[\],]+)[\"']?\s*:\s*")
_BARE = re.compile(r"[^,{}\[\]]*")
_COMMA = re.compile(r"\s*,?\s*")


def gemma(text: str, mark: str) -> list[Call]:
    """``call:name{key:value,…}``, once or more; strings stand between marks."""
    calls: list[Call] = []
    reader = _Gemma(text, mark)
    while text[reader.at :].strip():
        name = reader.match(_CALL)[1]
        value = reader.value(0)
        if not isinstance(value, dict):
            raise MalformedError("arguments stand in braces")
        calls.append((name, value))
        reader.match(_COMMA)
    return calls


class _Gemma:
    def __init__(self, text: str, mark: str) -> None:
        self._text = text
        self._mark = mark
        self.at = 0

    def match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Read what matches, or fail."""
        found = pattern.match(self._text, self.at)
        if found is None:
            raise MalformedError(f"unexpected {self._text[self.at : self.at + 1]!r}")
        self.at = found.end()
        return found

    def value(self, depth: int) -> Any:
        """A string between marks, a container, or a bare value."""
        if depth > DEEPEST:
            raise MalformedError("nested too deeply")
        if self._text.startswith(self._mark, self.at):
            start = self.at + len(self._mark)
            end = self._text.index(self._mark, start)
            self.at = end + len(self._mark)
            return self._text[start:end]
        opening = self._text[self.at : self.at + 1]
        if opening == "{":
            return self._object(depth)
        if opening == "[":
            return self._list(depth)
        bare = self.match(_BARE)[0].strip()
        if not bare:
            raise MalformedError("a value is missing")
        try:
            return json.loads(bare)
        except ValueError:
            return bare

    def _object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self.at += 1
        while not self._closed("}"):
            key = self._marked_key() or self.match(_KEY)[1]
            members[key] = self.value(depth + 1)
            self.match(_COMMA)
        return members

    def _marked_key(self) -> str | None:
        if not self._text.startswith(self._mark, self.at):
            return None
        key = str(self.value(0))
        self.match(re.compile(r"\s*:\s*"))
        return key

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        self.at += 1
        while not self._closed("]"):
            items.append(self.value(depth + 1))
            self.match(_COMMA)
        return items

    def _closed(self, char: str) -> bool:
        self.match(re.compile(r"\s*"))
        if self.at >= len(self._text):
            raise MalformedError("cut off")
        if self._text[self.at] != char:
            return False
        self.at += 1
        return True
