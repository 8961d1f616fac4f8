r"""JSON that is still being written, character by character.

A model's JSON is passed on while it is written, so a mistake is only seen after what came before it has gone
out. The scanner therefore gives out nothing but beginnings of valid JSON, in pieces, and stops at the first
character that no valid JSON could have there. Three slips that models make are mended on the way, because what
is meant is certain: raw line breaks and tabs in strings, needless escapes (``\'``, ``\d``), and Python's
``True``, ``False`` and ``None``. Escaped surrogates without their other half become U+FFFD: no UTF-8 client
could decode them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEEPEST = 100
"""Nesting beyond which JSON counts as malformed; decoders on the client's side have limits near 200."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_BARE = re.compile(r"[-+.\w]+", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_LONGEST_BARE = 400
_SPACE = " \t\r\n"
_REPLACEMENT = "\\ufffd"
_HIGH, _LOW, _END = 0xD800, 0xDC00, 0xE000
_HEX_DIGITS = 4


class MalformedError(ValueError):
    """What the model wrote is not what the format asks for."""


class JsonScanner:
    """Reads one JSON value.

    Args:
        give: takes each piece of valid JSON text.

    Attributes:
        done: the value is complete. Numbers and words at the top are complete only at the next character.
        given: the place in the text up to which everything has been given out.
    """

    def __init__(self, give: Callable[[str], None]) -> None:
        self._give = give
        self._stack: list[str] = []  # the closing character of each open container
        self._expect = self._value
        self._bare = ""  # a number or word, until it ends
        self._escape = ""  # an escape sequence, until it ends
        self._high = ""  # an escaped high surrogate, waiting for its other half
        self._key = False  # the current string is an object's key
        self.done = False
        self.given = 0

    def feed(self, text: str, at: int) -> int:
        """Read `text` from `at`; returns where reading stopped: at its end or that of the value.

        Raises:
            MalformedError: no valid JSON goes on like this; what came before has been given out.
        """
        while at < len(text) and not self.done:
            if not (self._bare or self._escape or self._high):
                self.given = at
            at = self._expect(text, at)
        return at

    # Each of these reads from `at` and returns where the next one starts.

    def _value(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE:
            self._give(char)
        elif char == '"':
            self._open_string(key=False)
        elif char in "{[":
            self._open(char)
        elif _BARE.match(char):
            self._expect = self._word
            return at
        else:
            raise MalformedError(f"unexpected {char!r}")
        return at + 1

    def _item_or_end(self, text: str, at: int) -> int:
        if text[at] == "]":
            return self._close(text, at)
        if text[at] not in _SPACE:
            self._expect = self._value
        return self._value(text, at)

    def _key_or_end(self, text: str, at: int) -> int:
        return self._close(text, at) if text[at] == "}" else self._object_key(text, at)

    def _object_key(self, text: str, at: int) -> int:
        char = text[at]
        if char == '"':
            self._open_string(key=True)
        elif char in _SPACE:
            self._give(char)
        else:
            raise MalformedError(f"unexpected {char!r} instead of a key")
        return at + 1

    def _colon(self, text: str, at: int) -> int:
        char = text[at]
        if char == ":":
            self._expect = self._value
        elif char not in _SPACE:
            raise MalformedError(f"unexpected {char!r} after a key")
        self._give(char)
        return at + 1

    def _comma_or_end(self, text: str, at: int) -> int:
        char = text[at]
        if char == self._stack[-1]:
            return self._close(text, at)
        if char == ",":
            self._expect = self._object_key if self._stack[-1] == "}" else self._value
        elif char not in _SPACE:
            raise MalformedError(f"unexpected {char!r} after a value")
        self._give(char)
        return at + 1

    def _word(self, text: str, at: int) -> int:
        """Numbers and words are held until they end: few clients parse half of one."""
        found = _BARE.match(text, at)
        if found:
            self._bare += found[0]
            if len(self._bare) > _LONGEST_BARE:
                raise MalformedError("a number without end")
            return found.end()
        known = _WORDS.get(self._bare)
        if known is None and not _NUMBER.fullmatch(self._bare):
            raise MalformedError("neither a number nor a word of JSON")
        self._give(known or self._bare)
        self._bare = ""
        self._after_value()
        return at

    def _string(self, text: str, at: int) -> int:
        found = _PLAIN.match(text, at)
        if found:
            self._lone_high()
            self._give(found[0])
            return found.end()
        char = text[at]
        if char == "\\":
            self._escape = char
            self._expect = self._escaped
        elif char == '"':
            self._lone_high()
            self._give(char)
            if self._key:
                self._expect = self._colon
            else:
                self._after_value()
        else:
            self._lone_high()
            self._give(json.dumps(char)[1:-1])
        return at + 1

    def _escaped(self, text: str, at: int) -> int:
        self._escape += text[at]
        kind = self._escape[1]
        if kind != "u":
            self._lone_high()
            self._give(self._escape if kind in '"\\/bfnrt' else _mended(kind))
        elif len(self._escape) < 2 + _HEX_DIGITS:
            return at + 1
        else:
            self._unicode()
        self._escape = ""
        self._expect = self._string
        return at + 1

    def _unicode(self) -> None:
        digits = self._escape[2:]
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            raise MalformedError("a broken \\u escape")
        code = int(digits, 16)
        if _LOW <= code < _END and self._high:
            self._give(self._high + self._escape)
            self._high = ""
        elif _HIGH <= code < _LOW:
            self._lone_high()
            self._high = self._escape
        else:
            self._lone_high()
            self._give(_REPLACEMENT if _LOW <= code < _END else self._escape)

    def _lone_high(self) -> None:
        if self._high:
            self._high = ""
            self._give(_REPLACEMENT)

    def _open_string(self, *, key: bool) -> None:
        self._key = key
        self._expect = self._string
        self._give('"')

    def _open(self, char: str) -> None:
        if len(self._stack) >= DEEPEST:
            raise MalformedError("nested too deeply")
        self._stack.append("}" if char == "{" else "]")
        self._expect = self._key_or_end if char == "{" else self._item_or_end
        self._give(char)

    def _close(self, text: str, at: int) -> int:
        self._stack.pop()
        self._give(text[at])
        self._after_value()
        return at + 1

    def _after_value(self) -> None:
        self.done = not self._stack
        self._expect = self._comma_or_end


def _mended(char: str) -> str:
    """A backslash before a character that needs none: JSON's own for quotes, else it was meant as it stands."""
    return char if char == "'" else "\\\\" + (json.dumps(char)[1:-1])
