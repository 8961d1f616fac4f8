"""Every kind of content that Anthropic's clients send: what becomes of it, or the path of why it cannot be taken."""

import base64
import json

import pytest

from support.front import MODEL
from support.modelled import modelled_front, prompt_of

PNG = base64.b64encode(b"\x89PNG").decode()
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"n": 1}}


@pytest.fixture(scope="module")
def front():
    with modelled_front("Fine.") as running:
        yield running


def ask(front, *messages, **fields):
    return front.post("/v1/messages", {"model": MODEL, "max_tokens": 20, "messages": list(messages)} | fields)


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def text(words="Hi", **fields):
    return {"type": "text", "text": words} | fields


def result(content="sunny", **fields):
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content} | fields


def turns_of(front):
    return [
        part.split("\n", 1)[1] for part in prompt_of(front).split("<|im_end|>")[:-1] if "\n" in part.strip()
    ]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (text("Hi", **CACHED, citations=[]), "Hi"),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Once."}}
            | CACHED,
            "<document>\nOnce.\n</document>",
        ),
        (
            {
                "type": "document",
                "title": "T",
                "context": "C",
                "citations": {"enabled": True},
                "source": {"type": "content", "content": [text("a"), text("b")]},
            },
            '<document title="T" context="C">\na\n\nb\n</document>',
        ),
        (
            {"type": "document", "source": {"type": "content", "content": "plain"}},
            "<document>\nplain\n</document>",
        ),
        (
            {
                "type": "document",
                "source": {
                    "type": "base64",
                    "media_type": "text/plain",
                    "data": base64.b64encode("größe".encode()).decode(),
                },
            },
            "<document>\ngröße\n</document>",
        ),
        (
            {
                "type": "search_result",
                "source": "https://a.b",
                "title": "T",
                "content": [text("x"), text("y")],
            }
            | CACHED,
            '<search_result source="https://a.b" title="T">\nx\n\ny\n</search_result>',
        ),
    ],
)
def test_what_is_text(front, block, expected):
    assert ask(front, user(text("Look:"), block)).status == 200
    assert prompt_of(front).endswith(f"Look:\n\n{expected}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("block", "path", "why"),
    [
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            "",
            "this model takes text only, not images",
        ),
        ({"type": "image", "source": {"type": "url", "url": "http://a/b.png"}}, "", "text only"),
        ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, "", "text only"),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "no base64!"}},
            ".source.data",
            "not base64",
        ),
        ({"type": "image"}, ".source", "Field required"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
            ".source",
            "not application/pdf documents",
        ),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "é"}},
            ".source.data",
            "not base64",
        ),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "/w=="}},
            ".source.data",
            "must be UTF-8",
        ),
        ({"type": "document", "source": {"type": "url", "url": "http://a"}}, ".source", "nothing is fetched"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, ".source", "nothing is fetched"),
        (
            {
                "type": "document",
                "source": {
                    "type": "content",
                    "content": [{"type": "image", "source": {"type": "url", "url": "u"}}],
                },
            },
            ".source.content.0",
            "text only",
        ),
        ({"type": "search_result", "source": "s", "title": "t"}, ".content", "Field required"),
        ({"type": "hologram"}, ".type", "Invalid value 'hologram'"),
        ({"type": "text", "text": 5}, ".text", "Expected `str`"),
        (USE, "", "`tool_use` blocks can only be in assistant messages"),
        ({"type": "thinking", "thinking": "x"}, "", "can only be in assistant messages"),
        (result(), ".tool_use_id", "no earlier `tool_use` block has the id toolu_1"),
        ({"type": "tool_result"}, ".tool_use_id", "Field required"),
    ],
)
def test_what_is_refused(front, block, path, why):
    response = ask(front, user(text(), block))
    assert response.status == 400
    message = response.json()["error"]["message"]
    assert message.startswith(f"messages.0.content.1{path}: ")
    assert why in message


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        ("sunny", {}, "sunny"),
        ([text("a"), text("b")], {}, "a\n\nb"),
        ([], {}, ""),
        (None, {}, ""),
        ("no such file", {"is_error": True}, "Error: no such file"),
        ("Error: none", {"is_error": True}, "Error: none"),
        ("fine", {"is_error": False}, "fine"),
        (
            [{"type": "document", "source": {"type": "text", "data": "D"}}],
            {},
            "<document>\nD\n</document>",
        ),
        ([{"type": "tool_reference", "tool_name": "grep"}], {}, "Tool found: grep"),
    ],
)
def test_tool_results(front, content, fields, expected):
    response = ask(
        front, user(text()), assistant(text("I look."), USE), user(result(content, **fields, **CACHED))
    )
    assert response.status == 200
    prompt = prompt_of(front)
    assert f"<tool_response>\n{expected}\n</tool_response><|im_end|>" in prompt
    assert 'I look.\n<tool_call>\n{"name": "get", "arguments": {"n": 1}}\n</tool_call>' in prompt


def test_a_picture_in_a_result(front):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    response = ask(front, user(text()), assistant(USE), user(result([text("a"), image])))
    assert response.json()["error"]["message"].startswith("messages.2.content.0.content.1: ")


def test_text_beside_results_keeps_its_place(front):
    ask(front, user(text()), assistant(USE), user(result(), text("<system-reminder>x</system-reminder>")))
    assert turns_of(front)[-1].startswith(
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n\n<system-reminder>"
    )


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([user(text()), assistant(USE), user(result()), assistant(USE)], "messages.3.content.0.id"),
        ([user(text()), assistant(text("x"), USE)], "messages.1.content.1"),
        ([user(text()), assistant(USE), assistant(result())], "messages.2.content.0"),
        (
            [user(text()), assistant({**USE, "input": {"a": json.loads("[" * 80 + "]" * 80)}})],
            "messages.1.content.0.input",
        ),
        ([user(text()), assistant({**USE, "input": "text"})], "messages.1.content.0.input"),
    ],
)
def test_calls_that_cannot_be(front, messages, path):
    response = ask(front, *messages)
    assert response.status == 400
    assert response.json()["error"]["message"].startswith(f"{path}: ")


def test_what_anthropics_own_tools_did_is_passed_over(front):
    blocks = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "code_execution_tool_result", "tool_use_id": "s1", "content": {}},
        {"type": "redacted_thinking", "data": "abc"},
        text("Found."),
    ]
    assert ask(front, user(text()), assistant(*blocks), user(text("And?"))).status == 200
    assert "<|im_start|>assistant\nFound.<|im_end|>" in prompt_of(front)


def test_a_compaction_is_the_conversation_so_far(front):
    ask(front, user({"type": "compaction", "content": "They met."}, text("And?")))
    assert "They met.\n\nAnd?" in prompt_of(front)


def test_system_blocks_and_turns_stay_where_they_are(front):
    ask(
        front,
        user(text("one")),
        {"role": "system", "content": "inner"},
        user(text("two")),
        system=[text("first", **CACHED), text("second")],
    )
    prompt = prompt_of(front)
    places = [prompt.index(f"{words}<|im_end|>") for words in ("first\n\nsecond", "one", "inner", "two")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"role": "user", "content": "\ud83d"}', "messages.0.content"),
        (rb'{"role": "user", "content": [{"type": "text", "text": "a\ude42"}]}', "messages.0.content.0.text"),
        (rb'{"role": "user", "content": "x", "extra": {"\ud83d": 1}}', "messages.0.extra"),
    ],
)
def test_half_a_character(front, body, path):
    whole = b'{"model": "tiny/model", "max_tokens": 5, "messages": [' + body + b"]}"
    response = front.request("POST", "/v1/messages", whole, {"content-type": "application/json"})
    assert response.status == 400
    assert (
        response.json()["error"]["message"]
        == f"{path}: not valid JSON: half a surrogate pair is no character"
    )


def test_whole_characters_in_halves_are_fine(front):
    body = rb'{"model": "tiny/model", "max_tokens": 5, "messages": [{"role": "user", "content": "\ud83d\ude42"}]}'
    response = front.request("POST", "/v1/messages", body, {"content-type": "application/json"})
    assert response.status == 200
    assert "🙂" in prompt_of(front)


ARRAYS = "[" * 10_000 + "]" * 10_000
OBJECTS = '{"a": ' * 10_000 + "1" + "}" * 10_000
SCHEMA = '{"type": "object", "properties": {"n": ' * 5_000 + "{}" + "}}" * 5_000
BLOCK = '[{"role": "user", "content": [{"type": "text", "text": "[{"}, %s]}]'


@pytest.mark.parametrize(
    ("field", "deep", "path"),
    [
        ("system", ARRAYS, "system.0"),
        ("messages", ARRAYS, "messages.0"),
        ("messages", BLOCK % ARRAYS, "messages.0.content.1"),
    ],
)
def test_ten_thousand_levels_where_none_may_be(front, field, deep, path):
    error = refusal_of(front, field, deep)
    assert error["message"].startswith(f"{path}: Expected `object`, got `array`")


@pytest.mark.parametrize(
    ("field", "deep", "path"),
    [
        ("metadata", ARRAYS, "metadata"),
        ("metadata", '{"1": 2, "3": ' + ARRAYS + "}", "metadata.3"),
        (
            "messages",
            BLOCK % ('{"type": "tool_use", "id": "t", "name": "f", "input": ' + OBJECTS + "}"),
            "messages.0.content.1.input",
        ),
        ("tools", '[{"name": "a"}, {"name": "f", "input_schema": ' + SCHEMA + "}]", "tools.1.input_schema"),
        ("brand_new", OBJECTS, "brand_new"),
    ],
)
def test_ten_thousand_levels(front, field, deep, path):
    error = refusal_of(front, field, deep)
    assert error["message"] == f"{path}: nested too deeply (more than 256 levels)"


def refusal_of(front, field, deep):
    fields = {"model": '"tiny/model"', "max_tokens": "5", "messages": '[{"role": "user", "content": "x"}]'}
    body = ", ".join(f'"{key}": {value}' for key, value in (fields | {field: deep}).items())
    response = front.request(
        "POST", "/v1/messages", f"{{{body}}}".encode(), {"content-type": "application/json"}
    )
    assert response.status == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    return response.json()["error"]
