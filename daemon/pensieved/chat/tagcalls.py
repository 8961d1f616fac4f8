"""Reading calls whose arguments stand between tags, one by one.

The formats differ in their tags only (`tags`). Values are text: what they mean follows from the tool's schema.
A value that can only be a string goes out while it is written; others are short, and go out when complete.
Line breaks next to the tags belong to the tags, other whitespace to the value: it may be Python code.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pensieved.chat.callfeed import tail_that_begins
from pensieved.chat.jsonscan import MalformedError
from pensieved.chat.tags import TAGS
from pensieved.chat.values import meant, only_text, written_json

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from pensieved.chat.callfeed import CallWriter, Feed, Reading
    from pensieved.chat.tags import Tags

_LONGEST_TAG = 1000


def read_tagged_calls(
    feed: Feed, write: CallWriter, parser: str, schemas: Mapping[str, Mapping[str, Any]]
) -> Reading:
    """One section. `schemas`: for each tool, those of its arguments."""
    tags = TAGS[parser]
    reader = _Reader(feed, write, tags, schemas)
    yield from feed.literal(tags.section)
    if tags.pair[0]:
        yield from reader.pairs()
        return
    while True:
        tag = yield from reader.tag()
        if tag == tags.section_end:
            return
        yield from reader.call(tag)
        if not tags.section:
            return


class _Reader:
    def __init__(
        self, feed: Feed, write: CallWriter, tags: Tags, schemas: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._feed = feed
        self._write = write
        self._tags = tags
        self._schemas = schemas
        self._arguments: Mapping[str, Any] = {}  # the current tool's schemas
        self._count = 0  # arguments of the current call so far

    def tag(self) -> Generator[None, None, str]:
        """The next tag, whitespace before it left out."""
        feed = self._feed
        yield from feed.skip_space()
        if (yield from feed.peek()) != "<":
            raise MalformedError("a tag is missing")
        return (yield from feed.until(self._tags.close, _LONGEST_TAG)) + self._tags.close

    def call(self, tag: str) -> Reading:
        """One call whose opening tag is `tag`."""
        found = re.fullmatch(self._tags.call, tag, re.DOTALL)
        if found is None:
            raise MalformedError("a call begins with its name")
        self._start(found["name"])
        while (tag := (yield from self.tag())) != self._tags.call_end:
            if self._tags.json_block and re.fullmatch(self._tags.json_block, tag, re.DOTALL):
                yield from self._block()
                continue
            argument = re.fullmatch(self._tags.argument, tag, re.DOTALL)
            if argument is None:
                raise MalformedError("an argument begins with its key")
            yield from self._argument(argument["key"], _declared(argument.groupdict()))
        self._end()

    def pairs(self) -> Reading:
        """The one call of a section whose keys stand between tags of their own."""
        feed, (open_key, close_key) = self._feed, self._tags.pair
        name = ""
        while (tag := (yield from feed.one_of(open_key, self._tags.call_end))) is None:
            name += yield from feed.peek()
            feed.at += 1
            if len(name) > _LONGEST_TAG:
                raise MalformedError("a call begins with its name")
        found = re.fullmatch(self._tags.call, name)
        if found is None:
            raise MalformedError("a call begins with its name")
        self._start(found["name"])
        while tag == open_key:
            key = (yield from feed.until(close_key, _LONGEST_TAG)).strip()
            yield from feed.skip_space()
            yield from feed.literal(self._tags.argument)
            yield from self._argument(key, None)
            yield from feed.skip_space()
            tag = yield from feed.one_of(open_key, self._tags.call_end)
        if tag is None:
            raise MalformedError("an argument or the end is missing")
        self._end()

    def _start(self, name: str) -> None:
        self._write.start(name)
        self._arguments = self._schemas.get(name, {})
        self._count = 0

    def _end(self) -> None:
        if not self._count:
            self._write.arguments("{")
        self._write.arguments("}")
        self._write.end()

    def _block(self) -> Reading:
        """All arguments as one JSON object, without its braces: those are written here."""
        pieces: list[str] = []
        yield from self._feed.json(pieces.append)
        yield from self.tag()
        value = json.loads("".join(pieces))
        if not isinstance(value, dict):
            raise MalformedError("arguments are a JSON object")
        for key, item in value.items():
            self._key(key)
            self._write.arguments(written_json(item))

    def _key(self, key: str) -> None:
        self._write.arguments(("{" if not self._count else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        self._count += 1

    def _argument(self, key: str, declared: Mapping[str, Any] | None) -> Reading:
        schema = self._arguments.get(key) if declared is None else declared
        if only_text(schema) and not self._tags.cdata:
            self._key(key)
            yield from self._text()
            return
        raw = yield from self._feed.until(self._tags.argument_end)
        if self._tags.cdata and raw.strip().startswith("<![CDATA[") and raw.strip().endswith("]]>"):
            raw = raw.strip()[9:-3]
        self._key(key)
        self._write.arguments(written_json(meant(_unbroken(raw), schema)))

    def _text(self) -> Reading:
        """A string, given out while it is written; what may still be the end of it is held back."""
        feed, end = self._feed, self._tags.argument_end
        markers = (end, "\n" + end)
        self._write.arguments('"')
        if (yield from feed.peek()) == "\n":
            feed.at += 1
        while True:
            found = feed.text.find(end, feed.at)
            if found >= 0:
                break
            safe = len(feed.text) - tail_that_begins(feed.text[feed.at :], markers)
            self._give(feed.text[feed.at : safe])
            feed.at = safe
            yield from feed.more()
        self._give(feed.text[feed.at : found].removesuffix("\n"))
        feed.at = found + len(end)
        self._write.arguments('"')

    def _give(self, text: str) -> None:
        if text:
            self._write.arguments(json.dumps(text, ensure_ascii=False)[1:-1])


def _declared(groups: Mapping[str, str | None]) -> Mapping[str, Any] | None:
    """What the tag itself says of the argument's type, in a schema's words."""
    if groups.get("string") == "true":
        return {"type": "string"}
    return {"type": groups["type"]} if groups.get("type") else None


def _unbroken(raw: str) -> str:
    return raw.removeprefix("\n").removesuffix("\n")
