"""Random JSON schemas, drawn by hypothesis.

They use every keyword that schemas of structured answers and of tools' arguments usually have, nest, refer to each
other, and contradict themselves now and then.
"""

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

NAMES = ["id", "name", "größe", "unit price", "tags", 'quo"te', "x", "$ref", "items"]
PATTERNS = [
    "^[a-z]{2,8}$",
    "^\\d{3}-\\d{4}$",
    "[A-Z]",
    "^(yes|no|maybe)$",
    "^[^\\s]+@[a-z]+\\.(com|org)$",
    "^$",
]
FORMATS = [
    "date-time",
    "date",
    "time",
    "email",
    "uuid",
    "ipv4",
    "ipv6",
    "uri",
    "hostname",
    "int32",
    "password",
]
DEPTH = 3


def keywords(needed, **maybe):
    """A schema with the keywords `needed` and some of `maybe`."""
    return st.fixed_dictionaries({key: st.just(value) for key, value in needed.items()}, optional=maybe)


def values():
    scalar = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-999, 10**6),
        st.text(max_size=8),
        st.sampled_from([0.5, -1.25, 1e-3]),
    )
    return st.one_of(
        scalar, st.lists(scalar, max_size=3), st.dictionaries(st.sampled_from(NAMES), scalar, max_size=2)
    )


def text():
    lengths = {"minLength": st.integers(0, 5), "maxLength": st.integers(4, 24)}
    return st.one_of(
        keywords({"type": "string"}, description=st.text(max_size=9), **lengths),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(PATTERNS)),
        st.builds(lambda form: {"type": "string", "format": form}, st.sampled_from(FORMATS)),
    )


def numbers():
    bounds = {"minimum": st.integers(-500, 5), "maximum": st.integers(3, 10**5)}
    strict = {
        "exclusiveMinimum": st.sampled_from([-3, 0, 0.5]),
        "exclusiveMaximum": st.sampled_from([2, 7.5, 1000]),
    }
    return st.one_of(
        keywords({"type": "integer"}, **bounds),
        keywords({"type": "integer"}, multipleOf=st.integers(1, 12), **strict),
        keywords({"type": "number"}, **bounds),
        keywords({"type": "number"}, multipleOf=st.sampled_from([0.5, 0.01, 3]), **strict),
    )


def leaves():
    kinds = st.sampled_from(["string", "integer", "number", "null", "boolean", "object", "array"])
    return st.one_of(
        text(),
        text(),
        numbers(),
        numbers(),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True]),
        st.builds(lambda several: {"enum": several}, st.lists(values(), min_size=1, max_size=5)),
        st.builds(lambda value: {"const": value}, values()),
        st.builds(lambda several: {"type": several}, st.lists(kinds, min_size=1, max_size=3, unique=True)),
    )


@st.composite
def records(draw, inner):
    properties = draw(st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=5))
    schema = {"type": "object", "properties": properties}
    if draw(st.booleans()):
        schema["required"] = draw(st.lists(st.sampled_from([*properties, "more"]), unique=True))
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.one_of(st.just(False), st.just(False), st.just(True), inner))
    return schema


def maps(inner):
    counts = {"minProperties": st.integers(0, 1), "maxProperties": st.integers(1, 4)}
    return st.one_of(
        keywords(
            {"type": "object"},
            additionalProperties=inner,
            propertyNames=st.just({"type": "string"}),
            **counts,
        ),
        st.builds(
            lambda one, other, more: {
                "type": "object",
                "patternProperties": {"^[a-c]$": one, "^d": other},
                "additionalProperties": more,
            },
            inner,
            inner,
            st.booleans(),
        ),
    )


def arrays(inner):
    counts = {"minItems": st.integers(0, 2), "maxItems": st.integers(2, 4), "uniqueItems": st.just(False)}
    prefix = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        keywords({"type": "array"}, items=inner, **counts),
        keywords({"type": "array"}, prefixItems=prefix, items=st.one_of(st.booleans(), inner), **counts),
    )


def combinations(inner):
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda each: {"anyOf": each}, several),
        st.builds(lambda each: {"oneOf": each}, several),
        st.builds(lambda each: {"allOf": each}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda schema: {**schema, "anyOf": [{}, {"title": "second"}]}, records(inner)),
    )


def schemas(depth):
    if depth == 0:
        return leaves()
    inner = schemas(depth - 1)
    record = records(inner)
    return st.one_of(
        leaves(), record, record, record, arrays(inner), arrays(inner), maps(inner), combinations(inner)
    )


def referring():
    """Schemas that refer to a definition, or to themselves."""
    inner = schemas(DEPTH - 2)
    tree = {
        "type": "object",
        "properties": {
            "value": {"$ref": "#/$defs/value"},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    return st.builds(lambda value: {**tree, "$defs": {"value": value}}, inner)


def draw(count, seed):
    """`count` schemas, always the same for a seed."""
    drawn = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(st.one_of(*[schemas(DEPTH)] * 9, referring()))
    def collect(schema):
        drawn.append(schema)

    collect()
    return drawn
