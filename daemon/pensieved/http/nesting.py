"""Where a JSON body is nested too deeply.

The typed decoder gives up without saying where, and so does the standard library's. This reads the body once more,
without recursion and only up to the first place that is too deep.
"""

from __future__ import annotations

import re

TOO_DEEP = 256
"""Levels; the decoders take about 900, and nobody who means it writes more than a few dozen."""

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_LONGEST_PERIOD = 4
_LONGEST_PATH = 12

Path = list[str | int]


def too_deep(body: bytes) -> str:
    """The path of the first field whose content is too deep; empty where there is none.

    It leads to where the nesting begins to repeat itself: not ``tools.0.input_schema.items.items.items…``, but
    ``tools.0.input_schema``.
    """
    path: Path = []  # of each open container, the current member
    text = b""  # the last string, which is a key if a colon follows
    for found in _TOKEN.finditer(body):
        token = found[0]
        if token in b"{[":
            if len(path) == TOO_DEEP:
                return ".".join(map(str, _beginning(path)))
            path.append(0 if token == b"[" else "")
        elif token in b"}]":
            del path[-1:]
        elif token == b":":
            path[-1:] = [text[1:-1].decode(errors="replace")]
        elif token != b",":
            text = token
        elif path and isinstance(path[-1], int):
            path[-1] += 1
    return ""


def _beginning(path: Path) -> Path:
    """`path` without the part that repeats; of a path that does not, the first members."""
    lengths = (_before_repeating(path, period) for period in range(1, _LONGEST_PERIOD + 1))
    return path[: min(*lengths, _LONGEST_PATH)]


def _before_repeating(path: Path, period: int) -> int:
    """How many members of `path` stand before those that each equal the one `period` places later."""
    at = len(path) - period
    while at > 0 and path[at - 1] == path[at - 1 + period]:
        at -= 1
    return at
