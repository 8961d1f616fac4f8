r"""Where in a JSON body an escape stands for half a character.

``"\ud83d"`` alone is no character: it cannot be encoded, so no tokenizer takes it. The typed decoder refuses such a
body without saying where; this reads it once more, with the standard library, which lets it pass.
"""

from __future__ import annotations

import json
import re

_LONE = re.compile("[\ud800-\udfff]")


def lone_surrogate(body: bytes) -> str | None:
    """The path of the first string with half a character in it, or None where there is none, or no JSON."""
    if b"\\u" not in body:
        return None
    try:
        pending: list[tuple[str, object]] = [("", json.loads(body))]
    except (ValueError, RecursionError):
        return None
    while pending:
        path, value = pending.pop()
        if isinstance(value, str) and _LONE.search(value):
            return path
        if isinstance(value, dict):
            if any(_LONE.search(key) for key in value):
                return path
            pending += [(f"{path}.{key}", item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            pending += [(f"{path}.{index}", item) for index, item in reversed(list(enumerate(value)))]
    return None
