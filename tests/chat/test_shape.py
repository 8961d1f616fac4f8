"""Conversations that a template refuses are bent, as little as needed and the same way each time."""

import pytest

from pensieved.chat.conversation import Role, Turn, merge_turns, text_turn
from pensieved.chat.shape import fit, probe
from pensieved.chat.template import ChatTemplate
from support import chat_templates

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ROLES = {"s": Role.SYSTEM, "u": Role.USER, "a": Role.ASSISTANT}


def turns(letters):
    return tuple(text_turn(ROLES[letter], f"{letter}{number}") for number, letter in enumerate(letters))


def shape_of(name):
    return probe(ChatTemplate(chat_templates.ALL[name], TOKENS))


def fitted(name, letters):
    return [(message["role"], message["content"]) for message in fit(turns(letters), shape_of(name))]


@pytest.mark.parametrize(
    ("name", "leading_system", "inner_system", "leading_assistant"),
    [
        ("chatml", True, True, True),
        ("smollm2", True, True, True),
        ("llama3", True, True, True),
        ("qwen3", True, True, True),
        ("phi3", True, True, True),
        ("mistral", True, False, False),
        ("gemma", False, False, False),
        ("parts", True, True, True),
    ],
)
def test_probing(name, leading_system, inner_system, leading_assistant):
    shape = shape_of(name)
    assert (shape.leading_system, shape.inner_system, shape.leading_assistant) == (
        leading_system,
        inner_system,
        leading_assistant,
    )
    assert shape.content_as_parts is (name == "parts")


def test_what_is_taken_stays_as_it_is():
    assert fitted("chatml", "susau") == [
        ("system", "s0"),
        ("user", "u1"),
        ("system", "s2"),
        ("assistant", "a3"),
        ("user", "u4"),
    ]


def test_inner_system_turn_joins_the_user_turn_beside_it():
    assert fitted("mistral", "susau") == [
        ("system", "s0"),
        ("user", "u1\n\ns2"),
        ("assistant", "a3"),
        ("user", "u4"),
    ]
    assert fitted("mistral", "uasu") == [("user", "u0"), ("assistant", "a1"), ("user", "s2\n\nu3")]
    assert fitted("mistral", "usu") == [("user", "u0\n\ns1\n\nu2")]
    assert fitted("mistral", "uas") == [("user", "u0"), ("assistant", "a1"), ("user", "s2")]


def test_leading_system_turn_joins_the_first_user_turn():
    assert fitted("gemma", "suau") == [("user", "s0\n\nu1"), ("assistant", "a2"), ("user", "u3")]


def test_a_template_that_silently_drops_system_turns_is_seen_through():
    dropping = ChatTemplate(
        "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}", {}
    )
    shape = probe(dropping)
    assert not shape.leading_system
    assert not shape.inner_system
    assert "s0" in dropping.render(fit(turns("su"), shape))


def test_assistant_first_gets_an_empty_user_turn_where_the_template_insists():
    assert fitted("mistral", "au") == [("user", ""), ("assistant", "a0"), ("user", "u1")]
    assert fitted("chatml", "au") == [("assistant", "a0"), ("user", "u1")]


@pytest.mark.parametrize("name", chat_templates.ALL)
@pytest.mark.parametrize(
    "letters", ["u", "su", "us", "usau", "susau", "sua", "au", "uau", "usuau", "sau", "s"]
)
def test_every_template_renders_every_order_with_nothing_lost(name, letters):
    template = ChatTemplate(chat_templates.ALL[name], TOKENS)
    said = turns(letters)
    text = template.render(fit(said, probe(template)))
    assert all(turn.text in text for turn in said)


def test_a_longer_conversation_extends_the_shorter_ones_prompt():
    for name in ("chatml", "mistral", "gemma"):
        template = ChatTemplate(chat_templates.ALL[name], TOKENS)
        shape = probe(template)
        short = template.render(fit(turns("usa"), shape), answer=False)
        long = template.render(fit(turns("usau"), shape), answer=False)
        assert long.startswith(short)


def test_merging_keeps_the_parts():
    merged = merge_turns(turns("uuaus"))
    assert [turn.role.value for turn in merged] == ["user", "assistant", "user", "system"]
    assert merged[0] == Turn(Role.USER, turns("u")[0].parts + turns("uu")[1].parts)
