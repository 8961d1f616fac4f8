"""Schemas that can be kept, and those that cannot: which, why and where."""

import time

import pytest

from pensieved.chat.grammar import check_schema
from pensieved.chat.schema import MAX_BYTES, MAX_DEPTH, compiled
from pensieved.errors import RequestError, RequestErrorKind


def refusal(schema):
    with pytest.raises(RequestError) as caught:
        check_schema(schema, "at")
    assert caught.value.kind is RequestErrorKind.INVALID
    return caught.value


def nested(levels, inner=None):
    schema = inner or {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "path", "says"),
    [
        (False, "at", "JSON object"),
        ({"type": "text"}, "at", "Invalid type"),
        ({"properties": {"a.b": {"items": {"contains": {}}}}}, "at.properties.a.b.items", "contains"),
        ({"anyOf": [{}, {"if": {}, "then": {}}]}, "at.anyOf.1", "if"),
        ({"$defs": {"x": {"not": {}}}, "$ref": "#/$defs/x"}, "at.$defs.x", "not"),
        ({"prefixItems": [{}, {"pattern": "(?=a)"}]}, "at.prefixItems.1", "look-around"),
        ({"pattern": r"^(a)\1$"}, "at", "backreferences"),
        ({"items": {"$ref": "https://example.org/schema.json"}}, "at.items.$ref", "none is fetched"),
        ({"$ref": "#/$defs/missing"}, "at", "does not exist"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "at", "oneOf"),
        ({"type": "array", "uniqueItems": True}, "at", "uniqueItems"),
        ({"type": "object", "minProperties": 2}, "at.minProperties", "up to 1"),
        ({"type": "integer", "minimum": 10**19}, "at", "Unsatisfiable"),
        ({"type": "integer", "minimum": "1"}, "at", "minimum"),
        ({"minLength": -1}, "at", "positive"),
        ({"required": "a"}, "at", "required"),
        ({"const": "\ud800"}, "at", "cannot carry"),
        ({"maximum": float("inf")}, "at", "cannot carry"),
        ({"enum": [float("nan")]}, "at", "cannot carry"),
        (nested(10_000), "at", f"more than {MAX_DEPTH} levels"),
        ({"enum": [[[]] * 3, nested(MAX_DEPTH)]}, "at", f"more than {MAX_DEPTH} levels"),
        ({"description": "x" * MAX_BYTES}, "at", f"more than {MAX_BYTES}"),
    ],
)
def test_refused_with_place_and_reason(schema, path, says):
    error = refusal(schema)
    assert error.path == path
    assert says in str(error)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"uniqueItems": False, "propertyNames": {"type": "string"}, "dependentRequired": {}},
        {"type": "object", "additionalProperties": {}, "propertyNames": {"type": "string"}},
        {"type": "string", "format": "password"},
        {"type": "integer", "format": "int64"},
        {"if": {"const": 1}},
        {"then": {"const": 1}, "minContains": 2},
        {"properties": {"if": {"type": "string"}, "$ref": {"type": "null"}, "format": {"enum": ["x"]}}},
        {"type": "object", "required": ["a", "b"], "minProperties": 3},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"x": {}},
            "$ref": "#/definitions/x",
        },
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "T",
            "default": 3,
            "examples": [1],
        },
        {"enum": [{"if": 1, "then": 2, "uniqueItems": True, "$ref": "https://example.org"}]},
        nested(0, {"const": [[[[1]]]]}),
    ],
)
def test_kept(schema):
    check_schema(schema, "at")


def test_what_a_schema_says_of_llguidance_is_not_heard():
    error = refusal({"x-guidance": {"lenient": True}, "uniqueItems": True})
    assert "uniqueItems" in str(error)
    assert (
        compiled({"x-guidance": {"whitespace_flexible": True}}, "at")["x-guidance"]["whitespace_flexible"]
        is False
    )


def test_the_clients_schema_is_not_changed():
    schema = {
        "x-guidance": {},
        "properties": {"a": {"type": "integer", "uniqueItems": False, "format": "int32"}},
    }
    before = repr(schema)
    compiled(schema, "at")
    assert repr(schema) == before


def test_references_are_followed_whatever_the_depth():
    check_schema({"properties": {"next": {"$ref": "#"}}, "type": "object"}, "at")


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(4)]} for i in range(12)]},
        {"properties": {f"p{i}": {"type": "string", "pattern": f"^[a-z]{{{i % 50}}}$"} for i in range(4000)}},
        {"properties": {f"p{i}": {"uniqueItems": i == 4999} for i in range(5000)}},
        {"enum": [f"value {i}" for i in range(15_000)]},
        {"type": "string", "pattern": "(a{1000}){1000}"},
    ],
)
def test_no_schema_takes_long(schema):
    started = time.process_time()
    try:
        check_schema(schema, "at")
    except RequestError as error:
        assert error.path.startswith("at")  # noqa: PT017  either outcome will do
    assert time.process_time() - started < 20
