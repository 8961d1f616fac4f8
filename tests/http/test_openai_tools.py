"""Tools, reasoning and structured answers with the real OpenAI SDK; the engine says what the test wants."""

import json
from dataclasses import replace
from typing import Literal

import openai
import pydantic
import pytest

from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.models.manifest import TokenizerFacts
from support.chat_templates import CHATML
from support.front import END, MODEL, TOKENS, ids_of, running_front
from support.tiny_tokenizers import byte_level

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city.", "parameters": SCHEMA},
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
USER = {"role": "user", "content": "Weather in Paris?"}
ASK = {"model": MODEL, "messages": [USER], "tools": [TOOL, CLOCK]}
RESPONSES_TOOL = {"type": "function", **TOOL["function"]}
RESPONSES_ASK = {"model": MODEL, "input": "Weather in Paris?", "tools": [RESPONSES_TOOL]}


def call(city="Paris", name="get_weather"):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


LONG = call("Paris, the capital of France")
CUT = len(ids_of(LONG)) - 15
"""Tokens after which that call is not complete."""


class Weather(pydantic.BaseModel):
    city: str
    sky: Literal["clear", "cloudy"]
    degrees: int


SUNNY = '{"city": "Paris", "sky": "clear", "degrees": 21}'


@pytest.fixture
def front():
    with running_front(f"Let me see.{call()}\n{call('Rome')}{END}", context_length=4096) as running:
        yield running


@pytest.fixture
def client(front):
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def thinker(front):
    """The model reasons between `<think>` and `</think>`."""
    facts = TokenizerFacts(think_start="<think>", think_end="</think>")
    text = ChatTokenizer(byte_level(), CHATML, TOKENS, (), facts)
    front.daemon.serving = replace(front.daemon.serving, text=text)
    front.engine.answer = lambda _: ids_of(f"<think>Where is it?</think>Paris.{END}")


def prompt_of(front):
    tokenizer = front.daemon.serving.text._tokenizer
    return tokenizer.decode(front.engine.submitted[-1].prompt, skip_special_tokens=False)


def test_calls(client):
    (choice,) = client.chat.completions.create(**ASK).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    calls = choice.message.tool_calls
    assert [(each.type, each.function.name) for each in calls] == [("function", "get_weather")] * 2
    assert [json.loads(each.function.arguments) for each in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({each.id for each in calls}) == 2
    assert all(each.id.startswith("call_") for each in calls)


def test_a_call_alone_has_no_content(front, client):
    front.engine.answer = lambda _: ids_of(call() + END)
    message = client.chat.completions.create(**ASK).choices[0].message
    assert message.content is None
    assert len(message.tool_calls) == 1


def test_calls_are_streamed_while_they_are_made(client):
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    pieces = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    starts = [each for each in pieces if each.id]
    assert [(each.index, each.function.name, each.function.arguments) for each in starts] == [
        (0, "get_weather", ""),
        (1, "get_weather", ""),
    ]
    for index, city in enumerate(["Paris", "Rome"]):
        arguments = [each.function.arguments for each in pieces if each.index == index]
        assert json.loads("".join(arguments)) == {"city": city}
        assert len(arguments) > 5
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me see."


def test_the_sdks_own_accumulation(client):
    with client.chat.completions.stream(**ASK) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    whole = client.chat.completions.create(**ASK).choices[0]
    assert streamed.finish_reason == whole.finish_reason
    assert [each.function.arguments for each in streamed.message.tool_calls] == [
        each.function.arguments for each in whole.message.tool_calls
    ]


def test_calls_of_several_choices(client):
    for choice in client.chat.completions.create(**ASK, n=3).choices:
        assert len(choice.message.tool_calls) == 2


def test_a_whole_round(front, client):
    first = client.chat.completions.create(**ASK).choices[0].message
    front.engine.answer = lambda _: ids_of(f"Sunny.{END}")
    results = [
        {"role": "tool", "tool_call_id": each.id, "content": f"{city}: sun"}
        for each, city in zip(first.tool_calls, ["Paris", "Rome"], strict=True)
    ]
    answer = client.chat.completions.create(**ASK | {"messages": [USER, first, *results]}).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("Sunny.", "stop")
    prompt = prompt_of(front)
    places = [
        prompt.find(text)
        for text in ("Weather of a city.", "Weather in Paris?", "Let me see.", "Paris: sun", "Rome: sun")
    ]
    assert min(places) >= 0
    assert places == sorted(places)


def test_cut_off(front, client):
    front.engine.answer = lambda _: ids_of(LONG + END)
    (choice,) = client.chat.completions.create(**ASK, max_tokens=CUT).choices
    assert choice.finish_reason == "length"
    (made,) = choice.message.tool_calls
    assert made.function.name == "get_weather"
    assert made.function.arguments.startswith('{"city": "Paris')
    assert "France" not in made.function.arguments


def test_without_tools_a_call_is_text(front, client):
    front.engine.answer = lambda _: ids_of(call() + END)
    (choice,) = client.chat.completions.create(model=MODEL, messages=[USER]).choices
    assert (choice.message.content, choice.message.tool_calls) == (call(), None)


def test_no_call_is_wanted(front, client):
    front.engine.answer = lambda _: ids_of(f"No.{END}")
    client.chat.completions.create(**ASK, tool_choice="none")
    assert "get_weather" not in prompt_of(front)
    assert front.engine.submitted[-1].grammar == ""


def test_auto_is_free(front, client):
    client.chat.completions.create(**ASK, tool_choice="auto")
    assert front.engine.submitted[-1].grammar == ""


@pytest.mark.parametrize(
    ("choice", "possible", "impossible"),
    [
        ("required", ["get_weather", "get_time"], []),
        ({"type": "function", "function": {"name": "get_weather"}}, ["get_weather"], ["get_time"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "get_time"}}],
                },
            },
            ["get_time"],
            ["get_weather"],
        ),
    ],
)
def test_a_forced_call_is_held_to_the_schema(front, client, choice, possible, impossible):
    client.chat.completions.create(**ASK, tool_choice=choice)
    grammar = front.engine.submitted[-1].grammar
    assert all(name in grammar for name in possible)
    assert not any(name in grammar for name in impossible)


def test_strict_tools_are_held_to_their_schema(front, client):
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    client.chat.completions.create(**ASK | {"tools": [strict]})
    assert "get_weather" in front.engine.submitted[-1].grammar


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_at_most(client, stream):
    answer = client.chat.completions.create(**ASK, parallel_tool_calls=False, stream=stream)
    if stream:
        starts = [
            each
            for chunk in answer
            for each in chunk.choices[0].delta.tool_calls or ()
            if each.id is not None
        ]
    else:
        starts = answer.choices[0].message.tool_calls
    assert len(starts) == 1


def test_parse(front, client):
    front.engine.answer = lambda _: ids_of(SUNNY + END)
    parsed = client.chat.completions.parse(model=MODEL, messages=[USER], response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Paris", sky="clear", degrees=21)
    assert "degrees" in front.engine.submitted[-1].grammar


def test_parse_of_a_tool(front, client):
    front.engine.answer = lambda _: ids_of(
        f'<tool_call>\n{{"name": "Weather", "arguments": {SUNNY}}}\n</tool_call>{END}'
    )
    parsed = client.chat.completions.parse(
        model=MODEL, messages=[USER], tools=[openai.pydantic_function_tool(Weather)]
    )
    (made,) = parsed.choices[0].message.tool_calls
    assert made.function.parsed_arguments == Weather(city="Paris", sky="clear", degrees=21)


def test_json_object(front, client):
    front.engine.answer = lambda _: ids_of(SUNNY + END)
    client.chat.completions.create(model=MODEL, messages=[USER], response_format={"type": "json_object"})
    assert front.engine.submitted[-1].grammar != ""
    client.chat.completions.create(model=MODEL, messages=[USER], response_format={"type": "text"})
    assert front.engine.submitted[-1].grammar == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "nothing"}},
                }
            },
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}],
                "tool_choice": "required",
            },
            "tools.0.function.parameters.type",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"type": "object", "properties": {"a": {"type": "nothing"}}},
                        },
                    }
                ],
                "tool_choice": "required",
            },
            "tools.0.function.parameters",
        ),
    ],
)
def test_a_schema_that_cannot_be_enforced(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": [USER]} | fields)
    assert caught.value.param.startswith(param)


def test_reasoning(client, thinker):
    completion = client.chat.completions.create(model=MODEL, messages=[USER])
    message = completion.choices[0].message
    assert (message.content, message.reasoning_content) == ("Paris.", "Where is it?")
    thought = completion.usage.completion_tokens_details.reasoning_tokens
    assert 0 < thought <= completion.usage.completion_tokens


def test_reasoning_is_streamed(client, thinker):
    deltas = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(model=MODEL, messages=[USER], stream=True)
    ]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Where is it?"
    assert "".join(delta.content or "" for delta in deltas) == "Paris."


def test_no_reasoning_no_field(front):
    front.engine.answer = lambda _: ids_of(f"Paris.{END}")
    reply = front.post("/v1/chat/completions", {"model": MODEL, "messages": [USER]})
    assert set(reply.json()["choices"][0]["message"]) == {"role", "content", "refusal"}


def test_reasoning_can_be_sent_back(client, thinker):
    first = client.chat.completions.create(model=MODEL, messages=[USER]).choices[0].message
    again = client.chat.completions.create(model=MODEL, messages=[USER, first, USER])
    assert again.choices[0].message.content == "Paris."


# --- responses ---------------------------------------------------------------------------------------------


def test_responses_calls(client):
    response = client.responses.create(**RESPONSES_ASK)
    message, *calls = response.output
    assert message.content[0].text == "Let me see."
    assert [(each.type, each.name, each.status) for each in calls] == [
        ("function_call", "get_weather", "completed")
    ] * 2
    assert [json.loads(each.arguments) for each in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert all(each.call_id.startswith("call_") and each.id.startswith("fc_") for each in calls)
    assert response.tools[0].name == "get_weather"
    assert response.tools[0].parameters == SCHEMA


def test_responses_calls_are_streamed(client):
    told = list(client.responses.create(**RESPONSES_ASK, stream=True))
    assert [event.sequence_number for event in told] == list(range(len(told)))
    items = [event for event in told if event.type == "response.output_item.added"]
    assert [event.item.type for event in items] == ["message", "function_call", "function_call"]
    assert [event.output_index for event in items] == [0, 1, 2]
    for index, city in ((1, "Paris"), (2, "Rome")):
        mine = [event for event in told if getattr(event, "output_index", None) == index]
        kinds = [event.type for event in mine]
        assert kinds[0] == "response.output_item.added"
        assert set(kinds[1:-2]) == {"response.function_call_arguments.delta"}
        assert kinds[-2:] == ["response.function_call_arguments.done", "response.output_item.done"]
        arguments = "".join(event.delta for event in mine[1:-2])
        assert arguments == mine[-2].arguments == mine[-1].item.arguments
        assert json.loads(arguments) == {"city": city}
        assert {event.item_id for event in mine[1:-1]} == {mine[0].item.id}
    completed = told[-1].response.output
    assert [item.id for item in completed] == [event.item.id for event in items]


def test_responses_stream_helper(client):
    with client.responses.stream(**RESPONSES_ASK) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    whole = client.responses.create(**RESPONSES_ASK)
    assert [each.type for each in final.output] == [each.type for each in whole.output]
    assert [each.arguments for each in final.output[1:]] == [each.arguments for each in whole.output[1:]]


def test_responses_whole_round(front, client):
    first = client.responses.create(**RESPONSES_ASK)
    front.engine.answer = lambda _: ids_of(f"Sunny.{END}")
    results = [
        {"type": "function_call_output", "call_id": each.call_id, "output": f"{each.arguments} is sunny"}
        for each in first.output
        if each.type == "function_call"
    ]
    items = [{"role": "user", "content": "Weather?"}, *first.output, *results]
    answer = client.responses.create(**RESPONSES_ASK | {"input": items})
    assert answer.output_text == "Sunny."
    assert "is sunny" in prompt_of(front)


def test_responses_parse(front, client):
    front.engine.answer = lambda _: ids_of(SUNNY + END)
    parsed = client.responses.parse(model=MODEL, input="Weather?", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Paris", sky="clear", degrees=21)
    assert parsed.text.format.name == "Weather"
    assert "degrees" in front.engine.submitted[-1].grammar


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
    ],
)
def test_responses_forced_call(front, client, choice):
    response = client.responses.create(**RESPONSES_ASK, tool_choice=choice)
    assert "get_weather" in front.engine.submitted[-1].grammar
    echoed = response.tool_choice
    assert (echoed if isinstance(echoed, str) else echoed.to_dict()) == choice


def test_responses_reasoning(client, thinker):
    response = client.responses.create(model=MODEL, input="Where?")
    reasoning, message = response.output
    assert (reasoning.type, reasoning.summary, reasoning.status) == ("reasoning", [], "completed")
    assert reasoning.content[0].text == "Where is it?"
    assert message.content[0].text == "Paris."
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    again = client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "a"}, *response.output, {"role": "user", "content": "b"}],
    )
    assert again.output_text == "Paris."


def test_responses_reasoning_is_streamed(client, thinker):
    told = list(client.responses.create(model=MODEL, input="Where?", stream=True))
    kinds = [event.type for event in told if event.type.startswith("response.reasoning_text")]
    assert set(kinds[:-1]) == {"response.reasoning_text.delta"}
    assert kinds[-1] == "response.reasoning_text.done"
    text = "".join(event.delta for event in told if event.type == "response.reasoning_text.delta")
    assert text == "Where is it?"


def test_responses_cut_off_in_a_call(front, client):
    front.engine.answer = lambda _: ids_of(LONG + END)
    response = client.responses.create(**RESPONSES_ASK, max_output_tokens=CUT)
    assert (response.status, response.output[-1].status) == ("incomplete", "incomplete")
    assert response.output[-1].arguments.startswith('{"city": "Paris')
