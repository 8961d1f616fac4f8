"""The segmenter stage for models that write in channels, as gpt-oss does (OpenAI's Harmony format).

An answer is a sequence of messages there, each behind a header that says on which channel it is and to whom:

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…

What is on `analysis` is reasoning, a message to ``functions.NAME`` is a tool call whose arguments are its body, and any
other one is the answer's text. The first header is begun by the prompt, and ``to=`` may stand on either side of the
channel. A call ends the model's turn: its end marker is one of the stop tokens, so calls are complete with their JSON.

One stage does here what takes two elsewhere, for reasoning and for calls.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pensieved.chat.callfeed import CallWriter, CutError, EnoughError, Feed, tail_that_begins
from pensieved.chat.events import Delta, TextDelta, ThinkingDelta
from pensieved.chat.jsonscan import MalformedError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pensieved.chat.callfeed import Reading

CALL = "<|call|>"
"""Ends a message to a tool, and the turn with it."""

REASONING = "<|channel|>analysis<|message|>"
ANSWER = "<|channel|>final<|message|>"
PREAMBLE = "<|channel|>commentary<|message|>"
"""Text that a model may say before it calls."""

NEXT = "<|end|><|start|>assistant"
"""What ends one message and begins the next one's header."""

PIECES = (REASONING, ANSWER, PREAMBLE, NEXT, CALL, "<|return|>", "<|constrain|>")
"""Every text that may hold special tokens of the format."""

_ENDS = ("<|end|>", CALL, "<|return|>")
_BEGINS = ("<|start|>", "<|channel|>")
_HEADER_BEGINS = (*_BEGINS, "<|constrain|>", "<|message|>", "to=")
_LONGEST_HEADER = 400
_SPACE = " \t\r\n"
_TO = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_FUNCTIONS = "functions."

Kind = type[TextDelta] | type[ThinkingDelta]


class ChannelStage:
    """Text to reasoning, calls and text.

    Args:
        calls: whether tools are offered; without, a message to one is text.
        parallel: whether there may be more than one call.
        opened: the prompt ends within a message of the answer's text (prefill).

    Attributes:
        inside: the model is reasoning.
        over: the one call that was wanted is complete, and with it the answer.
    """

    def __init__(self, *, calls: bool, parallel: bool = True, opened: bool = False) -> None:
        self._feed = Feed()
        self._write = CallWriter(self._feed, parallel=parallel)
        self._calls = calls
        self._reading = self._messages(opened=opened)
        self.inside = False
        self.over = False

    def feed(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Text to reasoning, calls and text; other deltas pass."""
        passed: list[Delta] = []
        for delta in deltas:
            passed += self._read(delta.text) if isinstance(delta, TextDelta) else [delta]
        return passed

    def flush(self) -> list[Delta]:
        """The answer is over: what was held back, unless it is part of a header."""
        self._feed.ended = True
        return self._read("")

    def _read(self, text: str) -> list[Delta]:
        self._feed.text += text
        try:
            next(self._reading, None)
        except EnoughError:
            self.over = True
        except CutError:
            pass
        deltas, self._write.deltas = self._write.deltas, []
        return deltas

    def _messages(self, *, opened: bool) -> Reading:
        if opened:
            yield from self._body(TextDelta)
        while True:
            channel, tool = yield from self._header()
            if tool is not None and self._calls:
                yield from self._call(tool)
            else:
                yield from self._body(ThinkingDelta if channel == "analysis" else TextDelta)

    def _header(self) -> Generator[None, None, tuple[str, str | None]]:
        """Channel and tool of the next message. Text that stands where a header should is a message of its own."""
        feed = self._feed
        start = feed.at
        try:
            yield from feed.skip_space()
            first = feed.at
            begin = yield from feed.one_of(*_HEADER_BEGINS)
            feed.at = first
            if begin is not None:
                header = yield from feed.until("<|message|>", _LONGEST_HEADER)
                return _channel(header), _tool(header)
            feed.at = start
        except MalformedError:  # the marker it begins with must not be looked at again
            feed.at = first + len(begin or "")
            self._say(TextDelta, feed.text[start : feed.at])
        except CutError:
            rest = feed.text[start:]
            if rest.strip(_SPACE) and not rest.lstrip(_SPACE).startswith("<|"):
                self._say(TextDelta, rest)
            raise
        return "", None

    def _body(self, kind: Kind) -> Reading:
        """A message, given out while it is written; what may still be the end of it is held back."""
        feed = self._feed
        self.inside = kind is ThinkingDelta
        while (found := _first(feed.text, feed.at)) is None:
            safe = len(feed.text) - tail_that_begins(feed.text[feed.at :], (*_ENDS, *_BEGINS))
            self._say(kind, feed.text[feed.at : safe])
            feed.text, feed.at = feed.text[safe:], 0  # long answers are not kept
            try:
                yield from feed.more()
            except CutError:
                self._say(kind, feed.text)
                raise
        place, marker = found
        self._say(kind, feed.text[feed.at : place])
        feed.at = place + len(marker) if marker in _ENDS else place
        self.inside = False

    def _call(self, name: str) -> Reading:
        feed, write = self._feed, self._write
        yield from feed.skip_space()
        if (yield from feed.peek()) != "{":
            yield from self._body(TextDelta)
            return
        write.start(name)
        try:
            yield from feed.json(write.arguments)
        except MalformedError:
            yield from self._body(TextDelta)
            return
        write.end()
        yield from feed.skip_space()
        yield from feed.one_of(*_ENDS)

    def _say(self, kind: Kind, text: str) -> None:
        if text:
            self._write.deltas.append(kind(text))


def _first(text: str, at: int) -> tuple[int, str] | None:
    """The first marker that ends a message or begins another, and its place."""
    places = ((text.find(marker, at), marker) for marker in (*_ENDS, *_BEGINS))
    return min((found for found in places if found[0] >= 0), default=None)


def _channel(header: str) -> str:
    found = _CHANNEL.search(header)
    return found[1] if found else ""


def _tool(header: str) -> str | None:
    found = _TO.search(header)
    return found[1].removeprefix(_FUNCTIONS) if found and found[1].startswith(_FUNCTIONS) else None
