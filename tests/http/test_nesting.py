"""The path of what is nested too deeply, whatever stands around it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pensieved.http.nesting import TOO_DEEP, too_deep

DEEP = "[" * (TOO_DEEP + 1)
KEYS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\[]{},:é')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(before=st.dictionaries(KEYS, VALUES, max_size=3), items=st.lists(VALUES, max_size=3))
def test_what_stands_before_does_not_matter(before, items):
    whole = json.dumps({**before, "place": [*items, {"key": "DEEP"}]}, ensure_ascii=False)
    assert too_deep(whole.replace('"DEEP"', DEEP).encode()) == f"place.{len(items)}.key"
    assert too_deep(whole.encode()) == ""


def test_nesting_that_does_not_repeat_itself_is_told_up_to_a_length():
    body = "".join(f'{{"level{number}": ' for number in range(300))
    assert too_deep(body.encode()) == ".".join(f"level{number}" for number in range(12))


def test_what_is_no_json():
    assert too_deep(b']}{"a" 1, :,') == ""
