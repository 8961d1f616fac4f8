"""What an argument's text means, by its JSON schema: models write ``5`` for 5 and, in some formats, for "5"."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def kinds(schema: object) -> frozenset[str]:
    """JSON types that `schema` allows; empty where it does not say."""
    if not isinstance(schema, Mapping):
        return frozenset()
    declared = schema.get("type")
    found = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        found |= {each for each in declared if isinstance(each, str)}
    values = schema.get("enum")
    if isinstance(values, list) and not found:
        found |= {kind for value in values for kind, types in _TYPES.items() if type(value) in types}
    for word in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(word)
        if isinstance(choices, list):
            found |= {kind for choice in choices for kind in kinds(choice)}
    return frozenset(found)


def only_text(schema: object) -> bool:
    """Whether a value can be nothing but a string."""
    return kinds(schema) == {"string"}


def meant(text: str, schema: object) -> Any:
    """The value that `text` stands for: of a type that `schema` allows if it can be read so, else the text."""
    allowed = kinds(schema)
    if allowed == {"string"}:
        return text
    for read in (json.loads, _word, ast.literal_eval):
        try:
            value = read(text.strip())
            written_json(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        if not allowed or any(type(value) in _TYPES.get(kind, ()) for kind in allowed):
            return value
        if "integer" in allowed and isinstance(value, float) and value.is_integer():
            return int(value)
    return text


def written_json(value: object) -> str:
    """`value` as JSON that every client reads.

    Raises:
        ValueError: it holds NaN, an infinity or half a surrogate pair.
        TypeError: it is nothing that JSON can say.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _word(text: str) -> bool | None:
    if text.lower() not in _WORDS:
        raise ValueError
    return _WORDS[text.lower()]
