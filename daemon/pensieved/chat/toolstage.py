"""The segmenter stage that finds tool calls in an answer's text.

Outside of calls text passes, but for what could be the beginning of a call. A section that turns out to be no
call is text again, from its begin marker on, and what follows the marker is searched again: nothing that the
model wrote is lost. Whitespace that a model puts around calls is dropped; clients refuse blocks of nothing else.

A call that goes wrong after its arguments began to go out cannot be taken back: it stays without its end
(`ToolCallEnd`), and the rest is text. The same holds for a call that the end of the answer cuts off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pensieved.chat.callfeed import CallWriter, CutError, EnoughError, Feed, tail_that_begins
from pensieved.chat.closedcalls import read_closed_calls
from pensieved.chat.events import Delta, TextDelta
from pensieved.chat.jsoncalls import read_json_calls
from pensieved.chat.jsonscan import MalformedError
from pensieved.chat.tagcalls import read_tagged_calls
from pensieved.chat.toolformat import GENERIC, PYTHON_TAG, Style, ToolFormat

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from pensieved.chat.callfeed import Reading
    from pensieved.chat.conversation import ToolDefinition

_SPACE = " \t\r\n"


def markers_of(form: ToolFormat) -> tuple[str, ...]:
    """Texts that a call may begin with; special tokens among them must not be left out when ids become text."""
    own = PYTHON_TAG if form.parser == "llama3_json" else form.begin
    return tuple(dict.fromkeys((own, form.forced.begin))) if form.forced.begin else (own,)


class ToolStage:
    """Text to tool calls.

    Args:
        form: how the model writes them.
        tools: those that the request offers.
        parallel: whether there may be more than one.

    Attributes:
        over: the one call that was wanted is complete, and with it the answer.
    """

    def __init__(self, form: ToolFormat, tools: Sequence[ToolDefinition], *, parallel: bool) -> None:
        self._form = form
        self._known = frozenset(tool.name for tool in tools)
        self._schemas = {tool.name: _argument_schemas(tool) for tool in tools}
        self._markers = markers_of(form)
        self._parallel = parallel
        self._held = ""  # whitespace before anything else, or what may be the beginning of a marker
        self._text_began = False  # something other than whitespace stood since the start or the last call
        self._called = False
        self._section: _Section | None = None
        self._ended = False
        self.over = False

    def feed(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Text to text and calls; other deltas pass."""
        passed: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, TextDelta):
                passed += self._add(delta.text)
            else:
                passed.append(delta)
        return passed

    def flush(self) -> list[Delta]:
        """The answer is over: what was held back is text, or a call that is cut off."""
        self._ended = True
        passed = self._add("")
        while self._section is not None:
            passed += self._add("")
        held, self._held = self._held, ""
        dropped = self.over or (self._called and not held.strip(_SPACE))
        return passed if dropped or not held else [*passed, TextDelta(held)]

    def _add(self, text: str) -> list[Delta]:
        """What is certain after `text`, whatever it holds."""
        passed: list[Delta] = []
        rest: str | None = text
        while rest is not None and not self.over:
            if self._section is None:
                rest = self._outside(rest, passed)
            else:
                rest = self._inside(self._section, rest, passed)
        return passed

    def _outside(self, text: str, passed: list[Delta]) -> str | None:
        """Pass text up to where a call may begin; returns what follows from there, if one does."""
        text, self._held = self._held + text, ""
        start, marker = self._next_marker(text)
        if marker is None:
            start = len(text) - tail_that_begins(text, self._markers)
        before = text[:start]
        blank = not self._text_began and not before.strip(_SPACE)
        if before and not blank:
            passed.append(TextDelta(before))
            self._text_began = True
        if marker is None:
            self._held = text if blank else text[start:]
            return None
        self._section = _Section(self, marker, before if blank else "")
        return text[start:]

    def _inside(self, section: _Section, text: str, passed: list[Delta]) -> str | None:
        """Read on in the section; returns what follows it, if it is over."""
        rest = section.read(text, ended=self._ended)
        deltas, section.write.deltas = section.write.deltas, []
        passed += deltas
        if section.write.calls:
            self._called = True
            self._text_began = False
        if rest is None:
            return None
        self._section = None
        self.over = section.enough
        if section.write.calls:
            return rest
        # No call at all: its marker is text, and what follows the marker may be anything.
        plain = section.blank + (section.marker or rest[:1])
        passed.append(TextDelta(plain))
        self._text_began = True
        return rest[len(section.marker) or 1 :]

    def _next_marker(self, text: str) -> tuple[int, str | None]:
        places = [(text.find(marker), marker) for marker in self._markers]
        found = [(place, marker) for place, marker in places if place >= 0]
        if not self._form.begin and not self._text_began:
            blank = len(text) - len(text.lstrip(_SPACE))
            found += [(blank, "")] if text.startswith("{", blank) else []
        return min(found, default=(0, None))

    def reading(self, section: _Section) -> Reading:
        """The reader for a section that begins with its marker."""
        feed, write, form = section.feed, section.write, self._form
        known = () if section.marker else self._known
        if form.json_arguments or section.marker != form.begin:
            json_form = form if section.marker in {form.begin, PYTHON_TAG} else form.forced
            yield from read_json_calls(feed, write, json_form, known, section.marker)
        elif form.begin == GENERIC.begin and (yield from _is_object(feed, form)):
            yield from read_json_calls(feed, write, GENERIC, known, section.marker)
        elif form.style is Style.TAGGED:
            yield from read_tagged_calls(feed, write, form.parser, self._schemas)
        else:
            yield from read_closed_calls(feed, write, form)

    def section_parts(self) -> tuple[Feed, CallWriter]:
        """A feed and a writer for a new section."""
        feed = Feed()
        return feed, CallWriter(feed, parallel=self._parallel)

    @property
    def end_marker(self) -> str:
        """What a section ends with."""
        return self._form.end


class _Section:
    """What stands, or seems to stand, between markers."""

    def __init__(self, stage: ToolStage, marker: str, blank: str) -> None:
        self.marker = marker
        self.blank = blank  # whitespace before it, which is dropped unless this is no call
        self.feed, self.write = stage.section_parts()
        self.enough = False
        self._end = stage.end_marker
        self._reading = stage.reading(self)

    def read(self, text: str, *, ended: bool) -> str | None:
        """Read on; returns what is left when the section is over, all of it where it was no call."""
        self.feed.text += text
        self.feed.ended = ended
        try:
            next(self._reading)
        except StopIteration:
            return self.feed.text[self.feed.at if self.write.calls else 0 :]
        except EnoughError:
            self.enough = True
            return ""
        except MalformedError:
            return self.feed.text[self.feed.at if self.write.open else self.write.kept :]
        except CutError:
            if self.write.open:
                return ""
            rest = self.feed.text[self.write.kept :]
            return "" if self.write.kept and self._end.startswith(rest.strip(_SPACE)) else rest
        return None


def _is_object(feed: Feed, form: ToolFormat) -> Generator[None, None, bool]:
    """Whether a JSON object follows the marker, in a format that shares it."""
    yield from feed.literal(form.begin)
    yield from feed.skip_space()
    found = (yield from feed.peek()) == "{"
    feed.at = 0
    return found


def _argument_schemas(tool: ToolDefinition) -> Mapping[str, Any]:
    properties = tool.schema.get("properties")
    return properties if isinstance(properties, dict) else {}
