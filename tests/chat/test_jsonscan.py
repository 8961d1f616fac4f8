"""What goes out of a model's JSON is always the beginning of valid JSON."""

import json

import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieved.chat.jsonscan import DEEPEST, JsonScanner, MalformedError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def scanned(text, size=10**9):
    """What was given out, where reading stopped, and whether the value is complete; -1 where it is malformed."""
    pieces = []
    scanner = JsonScanner(pieces.append)
    at, seen = 0, ""
    for start in range(0, len(text), size):
        seen += text[start : start + size]
        try:
            at = scanner.feed(seen, at)
        except MalformedError:
            return "".join(pieces), -1, False
    return "".join(pieces), at, scanner.done


@settings(deadline=None)
@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]), size=st.integers(1, 7))
def test_valid_json_passes_unchanged(value, ascii_only, indent, size):
    text = json.dumps([value], ensure_ascii=ascii_only, indent=indent)
    assert scanned(text + " tail", size) == (text, len(text), True)


@settings(deadline=None)
@given(
    text=st.text(alphabet='{}[]",:\\ \nabtrufn0159.-eu\ud83d"'.replace("\ud83d", "é"), max_size=60),
    size=st.integers(1, 5),
)
def test_whatever_comes_what_goes_out_can_become_json(text, size):
    given_out, at, done = scanned("[" + text, size)
    assert scanned("[" + text) == (given_out, at, done)
    pydantic_core.from_json(given_out, allow_partial=True)
    if done:
        json.loads(given_out)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a\nb\tc"]', ["a\nb\tc"]),
        (r'["\d\s\'"]', ["\\d\\s'"]),
        ("[True, False, None]", [True, False, None]),
        (r'["\ud83d\ude42"]', ["🙂"]),
        (r'["\ud83d"]', ["\ufffd"]),
        (r'["\ude42\ud83dx\ud83d\n"]', ["\ufffd\ufffdx\ufffd\n"]),
        ("[-0.5e+3, 0]", [-500.0, 0]),
    ],
)
def test_slips_are_mended(text, expected):
    given_out, _, done = scanned(text)
    assert done
    assert json.loads(given_out) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[01]",
        "[1.]",
        "[-]",
        "[nul]",
        "[truth]",
        "{1: 2}",
        "{a}",
        "[1 2]",
        '{"a" 1}',
        '{"a":}',
        "[,]",
        "[1,]",
        "}",
        r'["\u12x4"]',
        "[NaN]",
        "[Infinity]",
        "[" + "1" * 500 + "]",
        "[" * (DEEPEST + 1),
    ],
)
def test_what_is_no_json_is_noticed(text):
    assert scanned(text)[1] == -1
    assert scanned(text, 1)[1] == -1
