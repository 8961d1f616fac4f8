"""Tools through the real SDK: offered, called, forced, forbidden, refused; streamed and whole."""

import json
from typing import Literal

import anthropic
import pydantic
import pytest
from anthropic import beta_tool
from structlog.testing import capture_logs

from pensieved.models.manifest import TokenizerFacts
from support import tool_templates
from support.front import MODEL, events, ids_of, question
from support.modelled import modelled_front, prompt_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Weather of a city", "input_schema": SCHEMA}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
ASK = {"model": MODEL, "max_tokens": 400, "messages": [{"role": "user", "content": "How is it?"}]}


@pytest.fixture
def front():
    with modelled_front(f"I look.\n{CALL}") as running:
        yield running


@pytest.fixture
def client(front):
    with anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as sdk:
        yield sdk


def answer_with(front, text):
    front.engine.answer = lambda _: ids_of(f"{text}<|im_end|>")


def calls(message):
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def test_a_call(client):
    message = client.messages.create(**ASK, tools=[WEATHER])
    text, use = message.content
    assert text.text == "I look.\n"
    assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "Rome"})
    assert use.id.startswith("toolu_")
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == len(ids_of(f"I look.\n{CALL}"))


def test_stream_helper(client):
    with client.messages.stream(**ASK, tools=[WEATHER]) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == '{"city": "Rome"}'
    assert calls(message) == [("weather", {"city": "Rome"})]
    assert message.stop_reason == "tool_use"


def test_event_order_and_indexes(front):
    answer_with(front, f"A.\n{CALL}\n{CALL} B.")
    seen = events(front.say(tools=[WEATHER], stream=True, max_tokens=400).body)
    names = [name for name, _ in seen]
    starts = [data for name, data in seen if name == "content_block_start"]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert [data["index"] for data in starts] == [0, 1, 2, 3]
    assert [data["content_block"]["type"] for data in starts] == ["text", "tool_use", "tool_use", "text"]
    assert starts[1]["content_block"]["input"] == {}
    assert len({data["content_block"].get("id") for data in starts[1:3]}) == 2
    current = None
    for name, data in seen:
        if name == "content_block_start":
            assert current is None
            current = data["index"]
        elif name == "content_block_delta":
            assert data["index"] == current
        elif name == "content_block_stop":
            assert data["index"] == current
            current = None
    stop = next(data for name, data in seen if name == "message_delta")
    assert stop["delta"]["stop_reason"] == "tool_use"


def test_arguments_reach_the_client_while_they_are_written(front):
    front.engine.answer = lambda _: ids_of(CALL[: CALL.index("Rome") + 4])  # and never ends
    with front.streaming(tools=[WEATHER], max_tokens=400) as names:
        seen = [next(names) for _ in range(4)]
    assert seen == ["message_start", "content_block_start", "content_block_delta", "content_block_delta"]


def test_stream_and_whole_agree(front, client):
    answer_with(front, f"A.\n{CALL}\n<tool_call>broken{CALL}")
    whole = client.messages.create(**ASK, tools=[WEATHER])
    with client.messages.stream(**ASK, tools=[WEATHER]) as stream:
        streamed = stream.get_final_message()
    assert [block.model_dump(exclude={"id"}) for block in streamed.content if block.type == "text"] == [
        block.model_dump(exclude={"id"}) for block in whole.content if block.type == "text"
    ]
    assert calls(streamed) == calls(whole)
    assert streamed.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_cut_off_by_max_tokens(front, client, stream):
    long = {"name": "weather", "arguments": {"n": 5, "city": "on and on"}}
    answer_with(front, f"<tool_call>\n{json.dumps(long)}\n</tool_call>")
    limit = len(ids_of(f"<tool_call>\n{json.dumps(long)}".removesuffix(' on"}}')))
    fields = ASK | {"max_tokens": limit, "tools": [WEATHER]}
    if stream:
        with client.messages.stream(**fields) as running:
            message = running.get_final_message()
    else:
        message = client.messages.create(**fields)
    assert message.stop_reason == "max_tokens"
    assert message.content[0].name == "weather"
    assert message.content[0].input["n"] == 5


def test_malformed_calls_are_text(front, client):
    answer_with(front, "<tool_call>weather in Rome</tool_call>")
    message = client.messages.create(**ASK, tools=[WEATHER])
    assert [block.text for block in message.content] == ["<tool_call>weather in Rome</tool_call>"]
    assert message.stop_reason == "end_turn"


def test_a_call_that_goes_wrong_midway_is_no_reason_to_stop_for_tools(front, client):
    answer_with(front, '<tool_call>{"name": "weather", "arguments": {"city": Rome}}')
    message = client.messages.create(**ASK, tools=[WEATHER])
    assert message.stop_reason == "end_turn"
    assert [block.type for block in message.content] == ["tool_use", "text"]


def test_without_tools_a_call_is_text(client):
    message = client.messages.create(**ASK)
    assert message.content[0].text == f"I look.\n{CALL}"


def test_none_describes_and_reads_no_tools(front, client):
    message = client.messages.create(**ASK, tools=[WEATHER], tool_choice={"type": "none"})
    assert "weather" not in prompt_of(front)
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("kind", ["auto", "any"])
def test_no_parallel_calls(front, client, kind):
    answer_with(front, f"{CALL}\n{CALL}\n{CALL}")
    choice = {"type": kind, "disable_parallel_tool_use": True}
    message = client.messages.create(**ASK, tools=[WEATHER], tool_choice=choice)
    assert calls(message) == [("weather", {"city": "Rome"})]
    assert message.stop_reason == "tool_use"


def test_parallel_calls(front, client):
    answer_with(front, f"{CALL}\n{CALL}")
    message = client.messages.create(**ASK, tools=[WEATHER])
    assert len(calls(message)) == 2
    assert len({block.id for block in message.content}) == 2


@pytest.mark.parametrize(
    ("choice", "strict", "constrained"),
    [
        ({"type": "auto"}, False, False),
        ({"type": "auto"}, True, True),
        ({"type": "any"}, False, True),
        ({"type": "tool", "name": "weather"}, False, True),
        ({"type": "none"}, True, False),
        (None, False, False),
    ],
)
def test_when_the_engine_is_held_to_the_schema(front, client, choice, strict, constrained):
    fields = {"tool_choice": choice} if choice else {}
    client.messages.create(**ASK, tools=[{**WEATHER, "strict": strict}], **fields)
    assert bool(front.engine.submitted[-1].grammar) is constrained
    assert ("city" in front.engine.submitted[-1].grammar) is constrained


def test_tool_runner(front, client):
    answers = iter([CALL, "It is 25 degrees."])
    front.engine.answer = lambda _: ids_of(f"{next(answers)}<|im_end|>")
    asked = []

    @beta_tool
    def weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: its name.
        """
        asked.append(city)
        return "25 degrees"

    message = client.beta.messages.tool_runner(**ASK, tools=[weather]).until_done()
    assert message.content[0].text == "It is 25 degrees."
    assert asked == ["Rome"]
    assert "<tool_response>\n25 degrees\n</tool_response>" in prompt_of(front)


def test_a_thread_is_not_kept_and_the_sdk_sends_it_again(front, client):
    answer_with(front, "Fine.")
    thread = client.beta.messages.thread(model=MODEL, max_tokens=50)
    assert thread.send({"role": "user", "content": "one"}).content[0].text == "Fine."
    assert thread.send({"role": "user", "content": "two"}).content[0].text == "Fine."
    prompt = prompt_of(front)
    assert prompt.index("one") < prompt.index("Fine.") < prompt.index("two")
    assert len(front.engine.submitted) == 2


class Fruit(pydantic.BaseModel):
    name: str
    color: Literal["red", "green"]


def test_structured_output(front, client):
    answer_with(front, '{"name": "apple", "color": "red"}')
    message = client.messages.parse(**ASK, output_format=Fruit)
    assert message.parsed_output == Fruit(name="apple", color="red")
    assert '"enum": ["red", "green"]' in prompt_of(front)
    assert "color" in front.engine.submitted[-1].grammar


def test_structured_output_in_the_betas_words(front):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    answer_with(front, '{"n": 1}')
    response = front.say(output_format={"type": "json_schema", "schema": schema})
    assert response.json()["content"][0]["text"] == '{"n": 1}'
    assert front.engine.submitted[-1].grammar


def test_the_models_own_format():
    facts = TokenizerFacts(tool_parser="qwen3_coder")
    text = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
    with (
        modelled_front(text, template=tool_templates.QWEN, facts=facts) as front,
        anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as client,
    ):
        assert calls(client.messages.create(**ASK, tools=[WEATHER])) == [("weather", {"city": "Rome"})]
        assert '"name": "weather"' in prompt_of(front)


HARMONY = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    '<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}'
)


def test_channels():
    with (
        modelled_front(HARMONY, template=tool_templates.HARMONY, end="</s>") as front,
        anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as client,
    ):
        message = client.messages.create(**ASK, tools=[WEATHER], thinking={"type": "adaptive"})
        thought, text, call = message.content
        assert (thought.thinking, text.text, call.input) == ("hm", "I look.", {"city": "Rome"})
        assert message.stop_reason == "tool_use"
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]
        turns = [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        client.messages.create(**ASK | {"messages": [*ASK["messages"], *turns]}, tools=[WEATHER])
        assert "<|channel|>analysis<|message|>hm\n\nI look.<|end|>" in prompt_of(front)
        hidden = client.messages.create(**ASK, tools=[WEATHER])
        assert [block.type for block in hidden.content] == ["text", "tool_use"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name: Tool names must be unique."),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: Field required"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name: Field required"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name: String should match pattern"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools.0.name: String should match pattern"),
        ({"tools": [{"name": "a", "input_schema": "x"}]}, "tools.0.input_schema: Expected `object"),
        (
            {"tools": [{"name": "a", "input_schema": {"type": "array"}}]},
            "tools.0.input_schema.type: Input should be",
        ),
        (
            {"tools": [{"name": "a", "input_schema": {"x": json.loads("[" * 99 + "]" * 99)}}]},
            "tools.0.input_schema: nested more than 64 levels",
        ),
        ({"tools": "x"}, "tools: Expected"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: a call cannot be forced"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "b"}},
            "tool_choice.name: Tool 'b' is not",
        ),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name: Field required"),
        ({"tools": [WEATHER], "tool_choice": {"type": "maybe"}}, "tool_choice.type: Invalid value 'maybe'"),
        (
            {
                "tools": [{"type": "web_search_20250305", "name": "web_search"}],
                "tool_choice": {"type": "any"},
            },
            "tool_choice: a call cannot be forced",
        ),
        (
            {
                "tools": [{"type": "web_search_20250305", "name": "web_search"}],
                "tool_choice": {"type": "tool", "name": "web_search"},
            },
            "tool_choice.name: Tool 'web_search' is not",
        ),
        (
            {
                "tools": [
                    {"type": "web_search_20250305", "name": "web_search"},
                    {"name": "a", "input_schema": {"type": "object", "properties": {"x": {"type": "wrong"}}}},
                ],
                "tool_choice": {"type": "any"},
            },
            "tools.1.input_schema.properties.x",
        ),
        (
            {"output_config": {"format": {"type": "json_schema"}}},
            "output_config.format.schema: Field required",
        ),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: Invalid value 'xml'"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "wrong"}}}},
            "output_config.format.schema",
        ),
        ({"output_config": {"effort": 5}}, "output_config.effort: Expected `str"),
    ],
)
def test_what_is_refused(front, fields, message):
    response = front.post("/v1/messages", question() | fields)
    assert response.status == 400, response.body
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith(message)


def test_tools_of_anthropics_own_are_left_out_with_a_line_in_the_log(front):
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, WEATHER]
    with capture_logs() as logs:
        response = front.post("/v1/messages", question(tools=tools))
    assert response.status == 200
    assert "web_search" not in prompt_of(front)
    (line,) = [line for line in logs if "left out" in line["event"]]
    assert line["types"] == ["web_search_20250305"]


def test_fields_of_tools_that_mean_nothing_here_are_ignored(front):
    extra = {"cache_control": {"type": "ephemeral"}, "defer_loading": True, "eager_input_streaming": True}
    tool = {
        **WEATHER,
        **extra,
        "type": "custom",
        "allowed_callers": ["direct"],
        "input_examples": [{"city": "Bern"}],
    }
    assert front.post("/v1/messages", question(tools=[tool])).status == 200
    assert 'Examples of input:\\n{\\"city\\": \\"Bern\\"}' in prompt_of(front)
