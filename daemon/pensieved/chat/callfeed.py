"""What a tool-call parser reads from and writes to.

Parsers are generators: they read as if all text were there and yield where it is not there yet. So each is
written as plainly as a parser of complete text, and still every argument goes out while it is written. A parser
must come to the same end for any split of the text, so it may look at single characters and search for first
occurrences, never at where the text happens to end.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pensieved.chat.events import Delta, ToolArgumentsDelta, ToolCallEnd, ToolCallStart
from pensieved.chat.jsonscan import JsonScanner, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Reading = Generator[None, None, None]

_SPACE = " \t\r\n"


class CutError(Exception):
    """The answer ended within a call."""


class EnoughError(Exception):
    """The one call that was wanted is complete."""


def tail_that_begins(text: str, markers: tuple[str, ...]) -> int:
    """How many of the last characters of `text` could be the beginning of a marker."""
    longest = 0
    for marker in markers:
        at = text.find(marker[:1], max(0, len(text) - len(marker) + 1)) if marker else -1
        while at >= 0 and not marker.startswith(text[at:]):
            at = text.find(marker[0], at + 1)
        longest = max(longest, len(text) - at if at >= 0 else 0)
    return longest


class Feed:
    """Text of one section, from its begin marker on, and the place up to which it has been read."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False

    def more(self) -> Reading:
        """Wait for more text.

        Raises:
            CutError: there will be none.
        """
        if self.ended:
            raise CutError
        yield

    def peek(self) -> Generator[None, None, str]:
        """The next character."""
        while self.at >= len(self.text):
            yield from self.more()
        return self.text[self.at]

    def skip_space(self) -> Reading:
        """Go to the next character that is no whitespace."""
        while (yield from self.peek()) in _SPACE:
            self.at += 1

    def literal(self, expected: str) -> Reading:
        """Read `expected`."""
        for char in expected:
            if (yield from self.peek()) != char:
                raise MalformedError(f"{expected!r} is missing")
            self.at += 1

    def one_of(self, *expected: str) -> Generator[None, None, str | None]:
        """Read the first of `expected` that comes next; None, and nothing read, where none does."""
        start, read = self.at, ""
        while candidates := [each for each in expected if each.startswith(read)]:
            if read in candidates:
                return read
            read += yield from self.peek()
            self.at += 1
        self.at = start
        return None

    def until(self, marker: str, most: int | None = None) -> Generator[None, None, str]:
        """Text up to `marker`, which is read too; `most` bounds its length."""
        start = self.at
        while (found := self.text.find(marker, start)) < 0:
            if most is not None and len(self.text) - start > most + len(marker):
                raise MalformedError(f"{marker!r} is missing")
            yield from self.more()
        if most is not None and found - start > most:
            raise MalformedError(f"{marker!r} is missing")
        self.at = found + len(marker)
        return self.text[start:found]

    def json(self, give: Callable[[str], None]) -> Reading:
        """Read one JSON value, container or string, giving out each piece of it."""
        scanner = JsonScanner(give)
        while not scanner.done:
            yield from self.peek()
            try:
                self.at = scanner.feed(self.text, self.at)
            except MalformedError:
                self.at = scanner.given
                raise


class CallWriter:
    """Collects the events of a section's calls. `parallel` False: ends the reading after one.

    Attributes:
        deltas: events so far; whoever takes them empties the list.
        kept: the place in the section's text up to which events hold all of it.
        open: a call has begun and not ended.
        calls: how many began.
    """

    def __init__(self, feed: Feed, *, parallel: bool) -> None:
        self._feed = feed
        self._parallel = parallel
        self._call_id = ""
        self.deltas: list[Delta] = []
        self.kept = 0
        self.open = False
        self.calls = 0

    def start(self, name: str) -> None:
        """A call begins."""
        self._call_id = secrets.token_hex(12)
        self.open = True
        self.calls += 1
        self.deltas.append(ToolCallStart(self._call_id, name))

    def arguments(self, text: str) -> None:
        """More of its arguments."""
        self.deltas.append(ToolArgumentsDelta(self._call_id, text))

    def end(self) -> None:
        """It is complete.

        Raises:
            EnoughError: and no other is wanted.
        """
        self.deltas.append(ToolCallEnd(self._call_id))
        self.open = False
        self.settle()
        if not self._parallel:
            raise EnoughError

    def settle(self) -> None:
        """What has been read so far needs no further event."""
        self.kept = self._feed.at

    def whole(self, name: str, arguments: str) -> None:
        """A call in one piece."""
        self.start(name)
        self.arguments(arguments)
        self.end()
