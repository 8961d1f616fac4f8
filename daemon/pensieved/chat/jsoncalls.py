"""Reading calls whose arguments are one JSON object.

Two shapes: the call is a JSON object that holds name and arguments (`Style.OBJECT`), or the name stands before
the arguments (`Style.HEADER`). Arguments go out while they are written, as soon as the name is known.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from pensieved.chat.jsonscan import JsonScanner, MalformedError
from pensieved.chat.toolformat import Style

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from typing import Any

    from pensieved.chat.callfeed import CallWriter, Feed, Reading
    from pensieved.chat.toolformat import ToolFormat

_ARGUMENTS = frozenset({"arguments", "parameters"})
_NAME = "name"
_HARMLESS = frozenset({"type", "id"})
_LONGEST_HEADER = 400

# What stands before the arguments, how that ends, and what follows the arguments, where models vary more than
# the format's own pieces say.
_MISTRAL = (r"\s*(?P<name>[\w.-]+)\s*(\[CALL_ID\]\s*\w*\s*)?", "[ARGS]", "")
_HEADERS = {
    "mistral": _MISTRAL,
    "mistral_header": _MISTRAL,
    "kimi_k2": (
        r"\s*<\|tool_call_begin\|>\s*(functions\.)?(?P<name>\S+?)(:\d+)?\s*",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
}


def read_json_calls(
    feed: Feed, write: CallWriter, form: ToolFormat, known: Collection[str], begin: str
) -> Reading:
    """One section, from `begin` to the end marker. Where nothing marks a call, only `known` names are calls."""
    yield from feed.literal(begin)
    while True:
        yield from feed.skip_space()
        first = yield from feed.peek()
        if first == "[":
            yield from _array(feed, write, known if not begin else ())
        elif first == "{":
            yield from _Call(feed, write, known if not begin else ()).read()
        elif form.style is Style.HEADER or form.parser in _HEADERS:
            yield from _headed(feed, write, form)
        else:
            raise MalformedError("a call is a JSON object")
        if not (yield from _goes_on(feed, form)):
            return


def _goes_on(feed: Feed, form: ToolFormat) -> Generator[None, None, bool]:
    """Whether another call follows in this section; reads the end marker where none does."""
    here = feed.at
    yield from feed.skip_space()
    if form.end and (yield from feed.one_of(form.end)):
        return False
    if form.parser == "llama3_json":
        yield from feed.one_of(";")
        yield from feed.skip_space()
    follows = (yield from feed.peek()) in ("{", form.before[:1])
    if not follows:
        feed.at = here
    return follows


def _array(feed: Feed, write: CallWriter, known: Collection[str]) -> Reading:
    yield from feed.literal("[")
    while True:
        yield from feed.skip_space()
        yield from _Call(feed, write, known).read()
        yield from feed.skip_space()
        if (yield from feed.one_of("]")):
            write.settle()
            return
        yield from feed.literal(",")


def _headed(feed: Feed, write: CallWriter, form: ToolFormat) -> Reading:
    own = (re.escape(form.before) + r"\s*(?P<name>.+?)\s*", form.middle, form.after.strip())
    pattern, marker, after = _HEADERS.get(form.parser, own)
    header = yield from feed.until(marker, _LONGEST_HEADER)
    found = re.fullmatch(pattern, header, re.DOTALL)
    if found is None:
        raise MalformedError("a call begins with its name")
    yield from feed.skip_space()
    if (yield from feed.peek()) != "{":
        raise MalformedError("arguments are a JSON object")
    write.start(found["name"])
    yield from feed.json(write.arguments)
    if after:
        yield from feed.skip_space()
        yield from feed.literal(after)
    write.end()


class _Call:
    """Reads one call that is a JSON object with name and arguments, in any order, and perhaps more."""

    def __init__(self, feed: Feed, write: CallWriter, known: Collection[str]) -> None:
        self._feed = feed
        self._write = write
        self._known = known  # empty: any name will do
        self._name = ""
        self._arguments = ""  # what came before the name

    def read(self) -> Reading:
        """From brace to brace."""
        feed = self._feed
        yield from feed.literal("{")
        while True:
            yield from feed.skip_space()
            yield from self._member()
            yield from feed.skip_space()
            if (yield from feed.one_of("}")):
                break
            yield from feed.literal(",")
        if not self._write.open:
            self._write.whole(self._checked_name(), _object_text(self._arguments))
        else:
            self._write.end()

    def _member(self) -> Reading:
        feed = self._feed
        if (yield from feed.peek()) != '"':
            raise MalformedError("a key is a string")
        key = json.loads((yield from self._text()))
        if self._known and not self._name and key not in _HARMLESS | {_NAME}:
            raise MalformedError("this object is no call")
        yield from feed.skip_space()
        yield from feed.literal(":")
        yield from feed.skip_space()
        first = yield from feed.peek()
        if key in _ARGUMENTS and self._name and first == "{" and not self._write.open:
            self._write.start(self._checked_name())
            yield from feed.json(self._write.arguments)
            return
        text = yield from self._text()
        if key == _NAME:
            self._name = str(_decoded(text, str))
            self._checked_name()
        elif key in _ARGUMENTS:
            self._arguments = text

    def _text(self) -> Generator[None, None, str]:
        pieces: list[str] = []
        yield from self._feed.json(pieces.append)
        return "".join(pieces)

    def _checked_name(self) -> str:
        if not self._name or (self._known and self._name not in self._known):
            raise MalformedError("a call names a tool")
        return self._name


def _object_text(text: str) -> str:
    """Arguments as the text of a JSON object; models also write them as a string of JSON, as null, or not at all."""
    if not text or text == "null":
        return "{}"
    if text.startswith('"'):
        text = str(_decoded(text, str)).strip() or "{}"
        pieces: list[str] = []
        scanner = JsonScanner(pieces.append)
        end = scanner.feed(text, 0)
        if not scanner.done or text[end:].strip():
            raise MalformedError("arguments are a JSON object")
        text = "".join(pieces)
    _decoded(text, dict)
    return text


def _decoded(text: str, kind: type) -> Any:
    value = json.loads(text)
    if not isinstance(value, kind):
        raise MalformedError(f"a {kind.__name__} was expected")
    return value
