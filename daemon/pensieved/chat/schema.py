"""A client's JSON schema, made fit for decoding: bounded, free of what says nothing, refused where it cannot be kept.

llguidance either enforces a keyword or refuses the schema, and that is what makes the guarantee. This module adds:

- limits, before anything recursive sees the schema;
- mercy for keywords that say nothing (`uniqueItems: false`, `propertyNames: {"type": "string"}`, which zod writes
  for every record) and for `format` values outside llguidance's, which are annotations by the specification
  (JSON Schema 2020-12, validation, section 7.2);
- a refusal of `minProperties` where llguidance would count a repeated key twice;
- the place of what is wrong, found by compiling ever smaller parts.

A schema may bring llguidance's own options (`x-guidance`), one of which switches the guarantee off: they are dropped.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from pensieved.errors import RequestError, RequestErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 100
"""Levels of nesting, of the JSON text; llguidance's parser takes 128."""
MAX_BYTES = 256 * 1024
"""Size of the JSON text; compiling that much takes up to half a second."""
SEARCH_SECONDS = 0.25
"""Time spent on finding the place of an error."""

OPTIONS = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
"""One line of JSON, with a space behind commas and colons or without: what models write by themselves in tool calls.
Free whitespace is valid too, but costs tokens, and a small model that has lost its way never leaves it."""

LARGEST = 10**18
"""Integers are kept below: they fit 64 bits, and a small model does not count on for ever."""

_ONE = frozenset(
    (
        *(
            "additionalItems",
            "additionalProperties",
            "contains",
            "contentSchema",
            "else",
            "if",
            "items",
            "not",
        ),
        *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
    )
)
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
_IDLE: dict[str, tuple[Any, ...]] = {
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "uniqueItems": (False,),
}
"""Values with which a keyword demands nothing."""

Schema = dict[str, Any]
AnySchema = Schema | bool


def compiled(schema: AnySchema, path: str) -> Schema:
    """`schema` as llguidance can keep it, its options included.

    Args:
        schema: what the client sent.
        path: its place in the request, for errors.

    Raises:
        RequestError: INVALID, with the place inside the schema where that can be told.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise _refusal("A schema must be a JSON object", path)
    _check_size(schema, path)
    clean = {key: value for key, value in _cleaned(schema, path).items() if key != "x-guidance"}
    reason = _complaint(clean)
    if reason:
        raise _refusal(f"This schema cannot be enforced: {reason}", path + _place(clean, reason))
    return {"x-guidance": OPTIONS, **clean}


def _check_size(schema: Schema, path: str) -> None:
    """Without recursion, since the depth is what is in doubt."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _values(each) if isinstance(child, dict | list)]
        if not level:
            break
    else:
        raise _refusal(f"The schema is nested more than {MAX_DEPTH} levels deep", path)
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:  # not a number, infinity, half a surrogate pair
        raise _refusal("The schema holds a number or a character that JSON cannot carry", path) from error
    if size > MAX_BYTES:
        raise _refusal(f"The schema has {size} bytes, which is more than {MAX_BYTES}", path)


def _values(node: dict[str, Any] | list[Any]) -> Iterator[Any]:
    yield from node.values() if isinstance(node, dict) else node


def _cleaned(schema: Any, path: str) -> Any:
    """A copy without the keywords that say nothing."""
    if not isinstance(schema, dict):
        return schema
    _check_references(schema, path)
    _check_count(schema, path)
    clean: Schema = {}
    for keyword, value in schema.items():
        if _says_nothing(schema, keyword, value):
            continue
        place = f"{path}.{keyword}"
        if keyword in _LISTS and isinstance(value, list):
            clean[keyword] = [_cleaned(each, f"{place}.{index}") for index, each in enumerate(value)]
        elif keyword in _MAPS and isinstance(value, dict):
            clean[keyword] = {key: _cleaned(each, f"{place}.{key}") for key, each in value.items()}
        else:
            clean[keyword] = _cleaned(value, place) if keyword in _ONE else value
    return _bounded(clean)


def _bounded(schema: Schema) -> Schema:
    """Integers with both limits, neither beyond `LARGEST`. Limits that are no numbers are left to be refused.

    Multiples are treated alike. Other numbers stay as they are: llguidance's limits would exclude exponents, and a
    model that knows Planck's constant could not write it.
    """
    kinds = schema.get("type")
    several = kinds if isinstance(kinds, list) else [kinds]
    if ("number" in several and "multipleOf" not in schema) or not {"integer", "number"} & set(
        map(str, several)
    ):
        return schema
    least, most = schema.get("minimum", -LARGEST), schema.get("maximum", LARGEST)
    if isinstance(least, int | float):
        schema["minimum"] = max(least, -LARGEST)
    if isinstance(most, int | float):
        schema["maximum"] = min(most, LARGEST)
    return schema


def _children(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Path below `schema`, and value, of everything directly inside it that may be a schema."""
    for keyword, value in schema.items():
        if keyword in _LISTS and isinstance(value, list):
            yield from ((f".{keyword}.{place}", each) for place, each in enumerate(value))
        elif keyword in _MAPS and isinstance(value, dict):
            yield from ((f".{keyword}.{key}", each) for key, each in value.items())
        elif keyword in _ONE:
            yield f".{keyword}", value


def _says_nothing(schema: Schema, keyword: str, value: Any) -> bool:
    match keyword:
        case "format":
            return isinstance(value, str) and value not in _FORMATS
        case "if":
            return not {"then", "else"} & schema.keys()
        case "then" | "else" | "minContains" | "maxContains":
            return ("contains" if keyword.endswith("Contains") else "if") not in schema
    return value in _IDLE.get(keyword, ())


def _check_references(schema: Schema, path: str) -> None:
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.partition("#")[0].startswith(("http:", "https:", "file:")):
        raise _refusal(f"$ref {reference!r} points to another document, and none is fetched", f"{path}.$ref")


def _check_count(schema: Schema, path: str) -> None:
    """Keys outside of `properties` may repeat, and would be counted each time; only the first is sure to be new."""
    least = schema.get("minProperties", 0)
    required = schema.get("required", [])
    if isinstance(least, int) and isinstance(required, list) and least > len(required) + 1:
        raise _refusal(
            f"minProperties {least} can be guaranteed only up to {len(required) + 1}, one more than what `required` lists",
            f"{path}.minProperties",
        )


def complaint(grammar: str) -> str:
    """Why llguidance cannot compile `grammar`; empty if it can."""
    from llguidance import LLMatcher  # noqa: PLC0415  a tenth of a second, for those who ask for a grammar

    return " ".join(LLMatcher.validate_grammar(grammar).split())


def _complaint(schema: Schema) -> str:
    return complaint(json.dumps({"grammars": [{"json_schema": schema}]}))


def _place(root: Schema, reason: str) -> str:
    """Path of the smallest part that is refused for the same `reason`."""
    deadline = time.monotonic() + SEARCH_SECONDS
    shared: Schema = {key: root[key] for key in ("$defs", "definitions") if key in root}
    place, part = "", root
    while True:
        for path, inner in _children(part):
            if time.monotonic() > deadline:
                return place
            if isinstance(inner, dict) and _complaint({**shared, **inner}) == reason:
                place, part = place + path, inner
                break
        else:
            return place


def _refusal(what: str, path: str) -> RequestError:
    return RequestError(RequestErrorKind.INVALID, f"{what}.", path=path)
