"""The real OpenAI SDK against a running daemon on the starter model: real SmolLM2, real MLX."""

import json
from typing import Literal

import numpy as np
import openai
import pydantic
import pytest

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.engine import launch
from pensieved.engine.supervisor import EngineConfig
from support.daemon import running_daemon
from support.logits import log_softmax, logits

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
ASK = {"model": "local", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 10}


class City(pydantic.BaseModel):
    country: Literal["France", "Spain"]
    size: Literal["small", "big"]
    capital: bool


@pytest.fixture(scope="module")
def daemon(starter_cache):
    with running_daemon(cache=starter_cache) as daemon:
        yield daemon


@pytest.fixture
def client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(starter_model):
    manifest = starter_model.manifest
    return ChatTokenizer.open(starter_model.path, manifest.eos_token_ids, manifest.tokenizer)


def test_paris_three_ways(client):
    chat = client.chat.completions.create(**ASK, temperature=0)
    assert "Paris" in chat.choices[0].message.content
    response = client.responses.create(model="gpt-5", input=QUESTION, temperature=0, max_output_tokens=10)
    assert response.output_text == chat.choices[0].message.content
    assert response.model == "gpt-5"
    legacy = client.completions.create(
        model="local", prompt="The capital of France is", temperature=0, max_tokens=8
    )
    assert "Paris" in legacy.choices[0].text


def test_streams_say_the_same(client):
    whole = client.chat.completions.create(**ASK, temperature=0)
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**ASK, temperature=0, stream=True)
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    with client.responses.stream(
        model="local", input=QUESTION, temperature=0, max_output_tokens=10
    ) as stream:
        assert stream.get_final_response().output_text == whole.choices[0].message.content


def test_a_seed_repeats_all_eight_choices(client):
    drawn = [
        [
            choice.message.content
            for choice in client.chat.completions.create(**ASK, n=8, seed=3, temperature=1.2).choices
        ]
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 4
    alone = client.chat.completions.create(**ASK, seed=3, temperature=1.2).choices[0].message.content
    assert alone == drawn[0][0]
    other = client.chat.completions.create(**ASK, seed=4, temperature=1.2).choices[0].message.content
    assert other != alone


def test_logprobs_equal_numpy_of_the_models_logits(client, tokenizer, starter_model, starter_cache):
    choice = client.chat.completions.create(**ASK, temperature=0, logprobs=True, top_logprobs=5).choices[0]
    ids_by_bytes = {tokenizer.token_bytes(number): number for number in range(2, 49152)}
    answer = [ids_by_bytes[bytes(token.bytes)] for token in choice.logprobs.content]
    assert tokenizer.decode(answer) == choice.message.content
    prompt = tokenizer.encode_chat(Conversation((text_turn(Role.USER, QUESTION),)))
    environment = launch.environment(EngineConfig(cache_dir=starter_cache))
    (rows,) = logits(starter_model.path, [[*prompt, *answer]], environment)
    expected = log_softmax(rows[len(prompt) - 1 : -1])
    for token, number, row in zip(choice.logprobs.content, answer, expected, strict=True):
        assert token.logprob == pytest.approx(row[number], abs=2e-3)
        assert [each.logprob for each in token.top_logprobs] == pytest.approx(
            np.sort(row)[::-1][:5], abs=2e-3
        )
        assert token.top_logprobs[0].token == token.token


def test_a_bias_forbids_a_word(client, tokenizer):
    (paris,) = tokenizer.encode(" Paris")
    free = client.chat.completions.create(**ASK, temperature=0).choices[0].message.content
    biased = client.chat.completions.create(**ASK, temperature=0, logit_bias={str(paris): -100})
    assert " Paris" in free
    assert " Paris" not in biased.choices[0].message.content


def test_a_frequency_penalty_stops_repetition(client):
    ask = {
        "model": "local",
        "prompt": "one one one one one one",
        "max_tokens": 20,
        "temperature": 0,
        "logprobs": 0,
    }
    free = client.completions.create(**ask).choices[0].logprobs.tokens
    penalized = (
        client.completions.create(**ask, frequency_penalty=2, presence_penalty=2).choices[0].logprobs.tokens
    )
    assert len(set(penalized)) > 2 * len(set(free))


def test_parse(client):
    ask = {"model": "local", "messages": [{"role": "user", "content": "Describe Paris."}], "seed": 1}
    parsed = client.chat.completions.parse(**ask, response_format=City, max_tokens=60)
    assert isinstance(parsed.choices[0].message.parsed, City)
    response = client.responses.parse(
        model="local", input="Describe Paris.", text_format=City, max_output_tokens=60, temperature=0
    )
    assert isinstance(response.output_parsed, City)


def test_logprobs_under_a_grammar_are_numbers(client):
    ask = {"model": "local", "messages": [{"role": "user", "content": "Describe Paris."}], "temperature": 0}
    answer = client.chat.completions.create(
        **ask,
        max_tokens=60,
        logprobs=True,
        top_logprobs=20,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "City", "schema": City.model_json_schema()},
        },
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(-9999 <= token.logprob <= 0 for token in tokens)
    assert all(-9999 < each.logprob <= 0 for token in tokens for each in token.top_logprobs)
    # Where the grammar leaves little choice there are fewer than twenty: what it forbids is not among them.
    assert min(len(token.top_logprobs) for token in tokens) < 20


def test_json_object(client):
    answer = client.chat.completions.create(
        **ASK | {"max_tokens": 40}, temperature=0, response_format={"type": "json_object"}
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "City"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_is_valid(client, choice, stream):
    tools = [openai.pydantic_function_tool(City)]
    ask = {**ASK, "max_tokens": 80, "tools": tools, "tool_choice": choice, "temperature": 0}
    if stream:
        with client.chat.completions.stream(**ask, parallel_tool_calls=False) as running:
            for _ in running:
                pass
            answer = running.get_final_completion().choices[0]
    else:
        answer = client.chat.completions.parse(**ask, parallel_tool_calls=False).choices[0]
    (call,) = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls"
    assert isinstance(call.function.parsed_arguments, City)
    assert City.model_validate_json(call.function.arguments)


def test_prompt_too_long(client):
    with pytest.raises(openai.BadRequestError, match="prompt is too long") as caught:
        client.chat.completions.create(**ASK | {"messages": [{"role": "user", "content": "word " * 10_000}]})
    assert caught.value.code == "context_length_exceeded"
