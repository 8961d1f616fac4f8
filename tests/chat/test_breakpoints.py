"""Where prompts may part: each breakpoint is a beginning that another prompt really shares."""

import random

import pytest

from pensieved.chat.breakpoints import LEAST, Breakpoints
from pensieved.chat.canonical import canonical
from pensieved.chat.conversation import (
    Conversation,
    Role,
    TextPart,
    ToolCallPart,
    ToolDefinition,
    ToolResultPart,
    Turn,
    text_turn,
)
from pensieved.chat.tokenizer import ChatTokenizer
from support import chat_templates, tool_templates
from support.tiny_tokenizers import byte_fallback, byte_level

TOKENS = {"bos_token": "<|bos|>", "eos_token": "</s>"}
TOKENIZERS = {"byte level": byte_level, "byte fallback": byte_fallback}
TOOLS = tuple(ToolDefinition(name=f"tool_{number}", description="does it " * 20) for number in range(5))


def prose(seed, words=400):
    chance = random.Random(seed)
    return " ".join(
        chance.choice(["quick", "brown", "Paris", "über", "東京", "\n\n", "{}"]) for _ in range(words)
    )


def said(*texts, marked=()):
    """A system text, then user and assistant in turn; the turns whose numbers are `marked` end a prefix."""
    roles = [Role.SYSTEM, *([Role.USER, Role.ASSISTANT] * len(texts))]
    return tuple(
        Turn(role, (TextPart(text, number in marked),))
        for number, (role, text) in enumerate(zip(roles, texts, strict=False))
    )


def made(text, conversation, **options):
    ids = text.encode_chat(conversation)
    return ids, text.breakpoints(conversation, ids, **options)


def shared(one, other):
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("name", chat_templates.ALL)
def test_the_end_of_the_system_text(name, tokenizer):
    text = ChatTokenizer(tokenizer, chat_templates.ALL[name], TOKENS, ())
    ids, found = made(text, Conversation(said(prose(1), "Hello there")), everywhere=True)
    other = text.encode_chat(Conversation(said(prose(1), prose(2))))
    assert found.marked == 0
    if shared(ids, other) < LEAST:  # a template that puts the system text last
        assert found.places == ()
    else:
        (place,) = found.places
        assert shared(ids, other) - 3 <= place <= shared(ids, other)


@pytest.mark.parametrize("name", chat_templates.ALL)
def test_marks_in_a_conversation(name, tokenizer):
    text = ChatTokenizer(tokenizer, chat_templates.ALL[name], TOKENS, ())
    turns = said(prose(1), prose(2), prose(3), "And now?", marked=(1, 3))
    ids, found = made(text, Conversation(turns), everywhere=True)
    assert list(found.places) == sorted(set(found.places))
    going_on = Conversation((*turns, text_turn(Role.ASSISTANT, "Well"), text_turn(Role.USER, prose(4))))
    if name != "mistral":  # which moves the system text to each new question
        assert len(ids) - 40 < found.marked <= shared(ids, text.encode_chat(going_on))
    for place in found.places:
        assert LEAST <= place < len(ids)
    if name == "chatml":
        assert "And now?" in text.decode(ids[: found.marked])[-12:]


def test_without_marks_nothing_is_done_where_the_cache_can_be_cut(tokenizer, monkeypatch):
    text = ChatTokenizer(tokenizer, chat_templates.CHATML, TOKENS, ())
    conversation = Conversation(said(prose(1), prose(2)))
    ids = text.encode_chat(conversation)
    monkeypatch.setattr(text, "render", None)
    assert text.breakpoints(conversation, ids) == Breakpoints()


def test_short_prompts_have_none(tokenizer):
    text = ChatTokenizer(tokenizer, chat_templates.CHATML, TOKENS, ())
    assert made(text, Conversation(said("Hi", "Ho", marked=(0, 1))), everywhere=True)[1] == Breakpoints()


def test_only_the_last_mark_is_looked_at_where_the_cache_can_be_cut(tokenizer):
    text = ChatTokenizer(tokenizer, chat_templates.CHATML, TOKENS, ())
    _, found = made(text, Conversation(said(prose(1), prose(2), prose(3), "x", marked=(0, 1, 2))))
    assert found.places == (found.marked,)
    _, everywhere = made(
        text, Conversation(said(prose(1), prose(2), prose(3), "x", marked=(0, 1, 2))), everywhere=True
    )
    assert everywhere.marked == found.marked
    assert len(everywhere.places) >= 3


def test_the_end_of_the_tools(tokenizer):
    text = ChatTokenizer(tokenizer, tool_templates.QWEN, TOKENS, ())
    tools = (*TOOLS[:-1], ToolDefinition(name="last", description="x", ends_prefix=True))
    ids, found = made(text, Conversation(said("", "Hello")[1:], tools=tools))
    other = text.encode_chat(Conversation(said("", prose(3))[1:], tools=tools))
    assert 0 <= shared(ids, other) - found.marked <= 3


def test_a_call_and_its_result(tokenizer):
    text = ChatTokenizer(tokenizer, tool_templates.QWEN, TOKENS, ())
    turns = (
        *said(prose(1), prose(2)),
        Turn(Role.ASSISTANT, (ToolCallPart("a", "tool_0", {"x": 1}, ends_prefix=True),)),
        Turn(Role.TOOL, (ToolResultPart("a", "tool_0", prose(3), ends_prefix=True),)),
    )
    ids, found = made(text, Conversation(turns, tools=TOOLS), everywhere=True)
    other = text.encode_chat(Conversation((*turns, text_turn(Role.USER, "More")), tools=TOOLS))
    assert len(ids) - 20 <= found.marked <= shared(ids, other)


def test_dropped_lines_do_not_drop_the_mark():
    turns = said("keep\nx-drop: 1", "Hello", marked=(0,))
    cleaned, dropped = canonical(Conversation(turns), ["x-drop.*"])
    assert (dropped, cleaned.turns[0].parts[0]) == (1, TextPart("keep", ends_prefix=True))
