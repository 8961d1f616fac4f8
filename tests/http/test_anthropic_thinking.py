"""Reasoning through the real SDK: asked for, shown, signed, returned, bounded, switched off."""

import anthropic
import pytest

from support import chat_templates, tool_templates
from support.front import MODEL, events, ids_of
from support.modelled import THINKS, modelled_front, prompt_of

ANSWER = "<think>\nhm, so\n</think>\n\nYes. 🙂"
ASK = {"model": MODEL, "max_tokens": 3000, "messages": [{"role": "user", "content": "Is it?"}]}
ON = {"type": "enabled", "budget_tokens": 1024}
ADAPTIVE = {"type": "adaptive"}


@pytest.fixture
def front():
    with modelled_front(ANSWER, template=tool_templates.QWEN, facts=THINKS) as running:
        yield running


@pytest.fixture
def client(front):
    with anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("thinking", [ON, ADAPTIVE])
def test_blocks(client, thinking):
    message = client.messages.create(**ASK, thinking=thinking)
    thought, text = message.content
    assert (thought.type, thought.thinking) == ("thinking", "hm, so")
    assert thought.signature
    assert text.text == "Yes. 🙂"
    assert message.usage.output_tokens == len(ids_of(ANSWER))


def test_stream(front, client):
    with client.messages.stream(**ASK, thinking=ADAPTIVE) as stream:
        message = stream.get_final_message()
    whole = client.messages.create(**ASK, thinking=ADAPTIVE)
    assert [block.model_dump() for block in message.content] == [
        block.model_dump() for block in whole.content
    ]
    seen = events(front.say(thinking=ADAPTIVE, stream=True).body)
    kinds = [data["delta"]["type"] for name, data in seen if name == "content_block_delta"]
    assert kinds == sorted(kinds, key=["thinking_delta", "signature_delta", "text_delta"].index)
    assert kinds.count("signature_delta") == 1
    starts = [data["content_block"] for name, data in seen if name == "content_block_start"]
    assert starts == [{"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""}]


def test_omitted(front, client):
    thinking = ADAPTIVE | {"display": "omitted"}
    message = client.messages.create(**ASK, thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == ""
    assert message.content[0].signature
    with client.messages.stream(**ASK, thinking=thinking) as stream:
        assert stream.get_final_message().content[0] == message.content[0]
    assert b"hm, so" not in front.say(thinking=thinking, stream=True).body  # base64 has no comma


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "between_tools"}])
def test_disabled_is_disabled_where_the_template_can(front, client, thinking):
    front.engine.answer = lambda _: ids_of("Yes.<|im_end|>")
    message = client.messages.create(**ASK, **({"thinking": thinking} if thinking else {}))
    assert prompt_of(front).endswith("<think>\n\n</think>\n\n")
    assert [block.type for block in message.content] == ["text"]


def test_between_tools(front, client):
    use = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
    turns = [*ASK["messages"], {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    message = client.messages.create(**ASK | {"messages": turns}, thinking={"type": "between_tools"})
    assert [block.type for block in message.content] == ["thinking", "text"]


def test_enabled_leaves_the_template_open(front, client):
    client.messages.create(**ASK, thinking=ON)
    assert prompt_of(front).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("stream", [False, True])
def test_who_did_not_ask_sees_none(front, stream):
    body = front.say(stream=stream).body
    assert b"hm" not in body
    assert b"thinking" not in body
    assert "🙂".encode() in body


def test_a_model_that_does_not_reason():
    with (
        modelled_front("Yes.", template=chat_templates.CHATML) as front,
        anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as client,
    ):
        message = client.messages.create(**ASK, thinking=ON)
        assert [block.type for block in message.content] == ["text"]


def test_reasoning_that_the_prompt_opened():
    with modelled_front(
        "hm, so\n</think>\n\nYes.", template=tool_templates.ALWAYS_THINKING, facts=THINKS
    ) as front:
        content = front.say(thinking=ADAPTIVE).json()["content"]
        assert [block["type"] for block in content] == ["thinking", "text"]
        assert content[0]["thinking"] == "hm, so"
        assert [block["text"] for block in front.say().json()["content"]] == ["Yes."]


def test_cut_off_while_reasoning(front, client):
    message = client.messages.create(**ASK | {"max_tokens": 5}, thinking=ADAPTIVE)
    (thought,) = message.content
    assert "hm, so".startswith(thought.thinking)
    assert thought.signature
    assert message.stop_reason == "max_tokens"


def returned(front, client, blocks):
    turns = [*ASK["messages"], {"role": "assistant", "content": blocks}, {"role": "user", "content": "And?"}]
    client.messages.create(**ASK | {"messages": turns}, thinking=ADAPTIVE)
    return prompt_of(front)


def test_our_blocks_come_back(front, client):
    blocks = [block.model_dump() for block in client.messages.create(**ASK, thinking=ADAPTIVE).content]
    assert "<|im_start|>assistant\n<think>\nhm, so\n</think>\n\nYes. 🙂<|im_end|>" in returned(
        front, client, blocks
    )


def test_the_clouds_blocks_are_dropped(front, client):
    blocks = [
        {"type": "thinking", "thinking": "cloudy", "signature": "EqoBCkgIARABGAIiQL2U"},
        {"type": "redacted_thinking", "data": "EmwKAhgB"},
        {"type": "text", "text": "Yes."},
    ]
    assert "<|im_start|>assistant\nYes.<|im_end|>" in returned(front, client, blocks)


def test_a_block_that_was_changed_is_refused(front, client):
    thought, text = (block.model_dump() for block in client.messages.create(**ASK, thinking=ADAPTIVE).content)
    with pytest.raises(
        anthropic.BadRequestError, match=r"messages\.1\.content\.0\.signature: Invalid `signature`"
    ):
        returned(front, client, [thought | {"thinking": "something else"}, text])


def test_the_budget_is_respected(front, client):
    answers = iter(["<think>\n" + "on and on " * 1000, "Well, yes.<|im_end|>"])
    front.engine.answer = lambda _: ids_of(next(answers))
    message = client.messages.create(**ASK, thinking=ON)
    thought, text = message.content
    assert text.text == "Well, yes."
    assert len(ids_of(thought.thinking)) <= 1024
    assert prompt_of(front).endswith("\n</think>\n\n")
    first, second = front.engine.submitted
    assert list(second.prompt[: len(first.prompt)]) == list(first.prompt)
    assert len(second.prompt) - len(first.prompt) + second.max_tokens == 3000
    assert message.usage.output_tokens == len(second.prompt) - len(first.prompt) + len(ids_of("Well, yes."))
    assert message.stop_reason == "end_turn"
    assert front.admission.running == 0


def test_reasoning_within_the_budget_is_one_request(front, client):
    client.messages.create(**ASK, thinking=ON)
    assert len(front.engine.submitted) == 1


def test_a_forced_call_does_not_reason(front, client):
    tool = {"name": "get", "input_schema": {"type": "object", "properties": {}}}
    front.engine.answer = lambda _: ids_of(
        '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call><|im_end|>'
    )
    message = client.messages.create(**ASK, tools=[tool], tool_choice={"type": "any"}, thinking=ADAPTIVE)
    assert [block.type for block in message.content] == ["tool_use"]
    assert prompt_of(front).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1023}},
            "thinking.budget_tokens: Expected `int` >= 1024",
        ),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: Field required"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type: Invalid value 'sometimes'"),
        ({"thinking": ON, "max_tokens": 1024}, "max_tokens: `max_tokens` must be greater"),
        (
            {
                "thinking": ON,
                "max_tokens": 2000,
                "tool_choice": {"type": "any"},
                "tools": [{"name": "a", "input_schema": {}}],
            },
            "thinking: Thinking may not be enabled when tool_choice forces tool use.",
        ),
    ],
)
def test_what_is_refused(front, fields, message):
    response = front.say(**fields)
    assert response.status == 400
    assert response.json()["error"]["message"].startswith(message)
