"""Responses with the real OpenAI SDK against the real server."""

import openai
import pytest

from support.front import END, MODEL, events, ids_of, running_front

ANSWER = "The capital of France is Paris. 🙂"
ASK = {"model": MODEL, "input": "Capital of France?"}


@pytest.fixture
def front():
    with running_front(ANSWER + END) as running:
        yield running


@pytest.fixture
def client(front):
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def prompt_of(front):
    tokenizer = front.daemon.serving.text._tokenizer
    return tokenizer.decode(front.engine.submitted[-1].prompt, skip_special_tokens=False)


def test_response(client):
    response = client.responses.create(**ASK)
    assert response.output_text == ANSWER
    assert (response.object, response.status, response.model) == ("response", "completed", MODEL)
    assert (response.error, response.incomplete_details) == (None, None)
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert message.content[0].annotations == []
    assert (response.tool_choice, response.tools, response.parallel_tool_calls) == ("auto", [], True)
    assert response.id.startswith("resp_")
    assert message.id.startswith("msg_")


def test_usage_is_exact(client):
    usage = client.responses.create(**ASK).usage
    prompt = "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert usage.input_tokens == len(ids_of(prompt))
    assert usage.output_tokens == len(ids_of(ANSWER))
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0


def test_stream(client):
    told = list(client.responses.create(**ASK, stream=True))
    kinds = [event.type for event in told]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert told[0].response.status == "in_progress"
    assert told[0].response.output == []
    assert "".join(event.delta for event in told[4:-4]) == told[-4].text == ANSWER
    assert told[-1].response.output_text == ANSWER
    assert told[2].item.id == told[4].item_id == told[-1].response.output[0].id
    assert len({event.response.id for event in (told[0], told[1], told[-1])}) == 1


def test_stream_on_the_wire(front):
    reply = front.post("/v1/responses", ASK | {"stream": True})
    for name, data in events(reply.body):
        assert name == data["type"]


def test_stream_helper_and_whole_agree(client):
    whole = client.responses.create(**ASK)
    with client.responses.stream(**ASK) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_response()
    assert streamed.output_text == whole.output_text
    assert streamed.usage == whole.usage


@pytest.mark.parametrize("stream", [False, True])
def test_cut_off(client, stream):
    response = client.responses.create(**ASK, max_output_tokens=3, stream=stream)
    if stream:
        *_, item_done, last = response
        assert item_done.item.status == "incomplete"
        assert last.type == "response.incomplete"
        response = last.response
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    assert response.usage.output_tokens == 3


def test_input_items(front, client):
    client.responses.create(
        model=MODEL,
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "a"},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "inner"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "b"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "short"}],
                "encrypted_content": "xxx",
            },
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "c", "annotations": []}],
            },
            {"role": "user", "content": "d"},
        ],
    )
    assert prompt_of(front) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>system\ninner<|im_end|>\n"
        "<|im_start|>user\nb<|im_end|>\n"
        "<|im_start|>assistant\nc<|im_end|>\n"
        "<|im_start|>user\nd<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_output_can_be_sent_back(front, client):
    first = client.responses.create(**ASK)
    client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "a"}, *first.output, {"role": "user", "content": "b"}],
    )
    assert f"<|im_start|>assistant\n{ANSWER}<|im_end|>" in prompt_of(front)


def test_what_was_asked_is_echoed(front, client):
    response = client.responses.create(
        **ASK,
        instructions="Be brief.",
        max_output_tokens=50,
        temperature=0.25,
        top_p=0.5,
        metadata={"a": "b"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        user="u",
    )
    assert (response.instructions, response.max_output_tokens, response.metadata) == (
        "Be brief.",
        50,
        {"a": "b"},
    )
    assert (response.temperature, response.top_p, response.user) == (0.25, 0.5, "u")
    assert (response.parallel_tool_calls, response.reasoning.effort) == (False, "low")
    assert response.text.format.type == "text"
    assert response.store is False
    sampling = front.engine.submitted[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0.25, 0.5)


def test_null_is_absent(client):
    names = ["instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "include"]
    names += [
        "metadata",
        "previous_response_id",
        "conversation",
        "background",
        "stream",
        "temperature",
        "store",
    ]
    assert client.responses.create(**ASK, extra_body=dict.fromkeys(names)).output_text == ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client, stream):
    response = client.responses.create(
        **ASK, include=["message.output_text.logprobs"], top_logprobs=2, stream=stream
    )
    if stream:
        told = list(response)
        parts = [
            entry for event in told if event.type == "response.output_text.delta" for entry in event.logprobs
        ]
        response = told[-1].response
        assert [entry.token for entry in parts] == [
            entry.token for entry in response.output[0].content[0].logprobs
        ]
    logprobs = response.output[0].content[0].logprobs
    assert b"".join(bytes(entry.bytes) for entry in logprobs).decode() == ANSWER
    assert {len(entry.top_logprobs) for entry in logprobs} == {2}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not stored"),
        ({"conversation": "conv_1"}, "conversation", "not stored"),
        ({"background": True}, "background", "not stored"),
        ({"prompt": {"id": "p"}}, "prompt", "stored at OpenAI"),
        ({"input": []}, "input", "length >= 1"),
        ({"input": 5}, "input", "Expected"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role", "robot"),
        ({"input": [{"role": "user"}]}, "input.0.content", "Field required"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0",
            "text only, not input_image",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "hologram"}]}]},
            "input.0.content.0.type",
            "hologram",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "item_reference"),
        ({"input": [{"type": 5}]}, "input.0.type", "5"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            "input.0.call_id",
            "No earlier item",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
            "input.0.arguments",
            "not valid JSON",
        ),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools.0.type", "custom"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "Field required"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "no tool named 'f'"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "Field required"),
        ({"max_output_tokens": -1}, "max_output_tokens", "Expected"),
        ({"temperature": 3}, "temperature", "Expected"),
    ],
)
def test_wrong_field(client, fields, param, words):
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.responses.create(**ASK | fields)
    assert caught.value.param == param


def test_hosted_tools_are_left_out(client):
    response = client.responses.create(**ASK, tools=[{"type": "web_search"}])
    assert (response.tools, response.output_text) == ([], ANSWER)


def test_failure_in_the_middle(front, client):
    front.engine.answer = lambda _: ids_of("never ending ")  # and says nothing more
    told = []
    stream = client.responses.create(**ASK, stream=True)
    while not (told and told[-1].type == "response.output_text.delta"):
        told.append(next(stream))
    front.engine.client.close("The engine died.")
    with pytest.raises(openai.APIError, match=r"The engine died\."):
        told.extend(stream)
    assert told[-1].type == "response.failed"
    assert told[-1].response.status == "failed"
    assert told[-1].response.error.message == "The engine died."
