"""Forced calls, strict tools and structured answers from the real starter model, held to their schemas."""

from __future__ import annotations

import json

import anthropic
import jsonschema
import pytest

from support.daemon import running_daemon

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "unit": {"enum": ["c", "f"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Forecast for a city", "input_schema": SCHEMA}
ASK = {"model": "local", "messages": [{"role": "user", "content": "How is the weather in Paris?"}]}
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def client(starter_cache):
    with (
        running_daemon(cache=starter_cache) as daemon,
        anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_forced_call_is_valid(client, choice):
    choice |= {"disable_parallel_tool_use": True}
    with client.messages.stream(
        **ASK, max_tokens=200, tools=[WEATHER], tool_choice=choice, extra_body=GREEDY
    ) as stream:
        message = stream.get_final_message()
    (call,) = message.content
    assert (call.type, call.name, message.stop_reason) == ("tool_use", "weather", "tool_use")
    jsonschema.validate(call.input, SCHEMA)
    counted = client.messages.count_tokens(**ASK, tools=[WEATHER], tool_choice=choice)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_a_forced_call_that_is_cut_off(client):
    message = client.messages.create(
        **ASK, max_tokens=16, tools=[WEATHER], tool_choice={"type": "any"}, extra_body=GREEDY
    )
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 16


def test_a_structured_answer_is_valid(client):
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = client.messages.create(**ASK, max_tokens=200, output_config=form, extra_body=GREEDY)
    assert message.stop_reason == "end_turn"
    jsonschema.validate(json.loads(message.content[0].text), SCHEMA)
