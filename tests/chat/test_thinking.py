"""Reasoning is told from the answer, wherever the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieved.chat.events import TextDelta, ThinkingDelta, ToolCallEnd
from pensieved.chat.thinking import ThinkingStage, ThinkMarkers

THINK = ThinkMarkers("<think>", "</think>")


def split(chunks, *, opened=False):
    stage = ThinkingStage(THINK, opened=opened)
    deltas = [delta for chunk in chunks for delta in stage.feed([TextDelta(chunk)])] + stage.flush()
    thought = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    kinds = [type(delta) for delta in deltas]
    assert kinds == sorted(kinds, key=[ThinkingDelta, TextDelta].index)
    return thought, text


CASES = [
    ("<think>\nhm, so\n</think>\n\nYes.", False, ("hm, so", "Yes.")),
    ("\n<think>a</think>b", False, ("a", "b")),
    ("so\n</think>\n\nYes.", True, ("so", "Yes.")),
    ("<think>\n\n</think>\n\nYes.", False, ("", "Yes.")),
    ("Yes.", False, ("", "Yes.")),
    ("The tag <think> opens.", False, ("", "The tag <think> opens.")),
    ("<think>a</think>b <think> c", False, ("a", "b <think> c")),
    ("<think>never ends \n", False, ("never ends", "")),
    ("<think>x</thi", False, ("x</thi", "")),
    ("<thi", False, ("", "<thi")),
    ("<think>a\n\n b</think>\n  indented", False, ("a\n\n b", "  indented")),
    ("", True, ("", "")),
    ("  Yes.", False, ("", "  Yes.")),
]


@pytest.mark.parametrize(("answer", "opened", "expected"), CASES)
def test_cases(answer, opened, expected):
    assert split([answer], opened=opened) == expected
    assert split(list(answer), opened=opened) == expected


@settings(deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "\n", " ", "a", "🙂"]), max_size=15),
    size=st.integers(1, 9),
    opened=st.booleans(),
)
def test_any_split(pieces, size, opened):
    answer = "".join(pieces)
    chunks = [answer[start : start + size] for start in range(0, len(answer), size)]
    assert split(chunks, opened=opened) == split([answer], opened=opened)


def test_reasoning_goes_out_while_it_is_written():
    stage = ThinkingStage(THINK, opened=False)
    assert stage.feed([TextDelta("<think>\nwell")]) == [ThinkingDelta("well")]
    assert stage.inside
    assert stage.feed([TextDelta(" then </th")]) == [ThinkingDelta(" then")]
    assert stage.feed([TextDelta("ink>\nSo")]) == [TextDelta("So")]
    assert not stage.inside


def test_other_deltas_pass():
    assert ThinkingStage(THINK, opened=False).feed([ToolCallEnd("x")]) == [ToolCallEnd("x")]


@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("assistant\n<think>\n\n</think>\n\n", False),
        ("assistant\n", False),
        ("<think>\nso far", False),
    ],
)
def test_a_prompt_may_open_the_reasoning(end, opened):
    assert THINK.opened_by(end) is opened
