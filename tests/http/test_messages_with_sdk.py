"""The real Anthropic SDK against the real server."""

import anthropic
import pytest

from pensieved.control.status import Phase
from support.front import END, MODEL, ids_of, running_front, wait_until


@pytest.fixture
def front():
    with running_front(f"The capital of France is Paris. 🙂{END}") as running:
        yield running


@pytest.fixture
def client(front):
    with anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as sdk:
        yield sdk


ASK = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Capital of France?"}]}


def test_message(client):
    message = client.messages.create(**ASK)
    assert message.content[0].text == "The capital of France is Paris. 🙂"
    assert (message.role, message.type, message.model) == ("assistant", "message", MODEL)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.id.startswith("msg_")
    assert message._request_id.startswith("req_")


def test_usage_is_exact(client):
    message = client.messages.create(**ASK)
    counted = client.messages.count_tokens(model=MODEL, messages=ASK["messages"])
    prompt = "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert message.usage.input_tokens == counted.input_tokens == len(ids_of(prompt))
    assert message.usage.output_tokens == len(ids_of("The capital of France is Paris. 🙂"))
    assert message.usage.cache_read_input_tokens == 0


def test_stream(client):
    with client.messages.stream(**ASK) as stream:
        kinds = [event.type for event in stream if event.type not in ("text", "ping")]
        message = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[1] == "content_block_start"
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert message.content[0].text == "The capital of France is Paris. 🙂"
    assert message.stop_reason == "end_turn"


def test_stream_and_whole_agree(client):
    whole = client.messages.create(**ASK)
    with client.messages.stream(**ASK) as stream:
        streamed = stream.get_final_message()
    assert [block.text for block in streamed.content] == [block.text for block in whole.content]
    assert streamed.usage.input_tokens == whole.usage.input_tokens
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_raw_event_stream(client):
    usage = None
    for event in client.messages.create(**ASK, stream=True):
        if event.type == "message_start":
            assert event.message.usage.output_tokens == 0
            assert event.message.content == []
        if event.type == "message_delta":
            usage = event.usage
    assert usage.output_tokens == len(ids_of("The capital of France is Paris. 🙂"))


def test_stop_sequence(client):
    message = client.messages.create(**ASK, stop_sequences=["nowhere", "France"])
    assert message.content[0].text == "The capital of "
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "France")


def test_stop_sequence_frees_the_engine(front, client):
    front.engine.answer = lambda _: ids_of("never ending " * 1000)
    client.messages.create(**ASK | {"max_tokens": 400}, stop_sequences=["ending"])
    wait_until(lambda: front.engine.cancelled == [front.engine.submitted[-1].request])
    assert front.admission.running == 0


def test_max_tokens(client):
    message = client.messages.create(**ASK | {"max_tokens": 3})
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 3


def test_max_tokens_zero_only_reads_the_prompt(front, client):
    message = client.messages.create(**ASK | {"max_tokens": 0})
    assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)
    (submitted,) = front.engine.submitted
    assert (len(submitted.prompt), submitted.max_tokens) == (message.usage.input_tokens, 1)
    with client.messages.stream(**ASK | {"max_tokens": 0}) as stream:
        assert stream.get_final_message().content == []
    assert len(front.engine.submitted) == 2
    assert front.admission.running == 0


def test_reading_the_prompt_is_waited_for_and_can_fail(front, client):
    front.engine.refusal = "not with this engine"
    with pytest.raises(anthropic.BadRequestError, match="not with this engine"):
        client.messages.create(**ASK | {"max_tokens": 0})


def test_answer_that_fills_the_context(front, client):
    front.engine.answer = lambda _: ids_of("on and on " * 1000)
    message = client.messages.create(**ASK | {"max_tokens": 16000})
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.input_tokens + message.usage.output_tokens == 512


def test_empty_answer(front, client):
    front.engine.answer = lambda _: ids_of(END)
    message = client.messages.create(**ASK)
    assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "end_turn", 0)
    with client.messages.stream(**ASK) as stream:
        assert stream.get_final_message().content == []


def prompt_of(front):
    return front.daemon.serving.text._tokenizer.decode(
        list(front.engine.submitted[-1].prompt), skip_special_tokens=False
    )


def test_system_blocks_inner_system_merging_and_prefill(front, client):
    client.messages.create(
        model=MODEL,
        max_tokens=5,
        system=[
            {"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "two"},
        ],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "system", "content": "inner"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "c"},
                ],
            },
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": "It is"},
        ],
    )
    assert prompt_of(front) == (
        "<|im_start|>system\none\n\ntwo<|im_end|>\n"
        "<|im_start|>user\na\n\nb<|im_end|>\n"
        "<|im_start|>system\ninner<|im_end|>\n"
        "<|im_start|>assistant\nc<|im_end|>\n"
        "<|im_start|>user\nd<|im_end|>\n"
        "<|im_start|>assistant\nIt is"
    )


def test_empty_final_assistant_turn_is_no_prefill(front, client):
    client.messages.create(**ASK | {"messages": [*ASK["messages"], {"role": "assistant", "content": ""}]})
    assert prompt_of(front).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_sampling_reaches_the_engine(front, client):
    client.messages.create(**ASK)
    default = front.engine.submitted[-1].sampling
    assert (default.temperature, default.top_p, default.top_k) == (0.7, 1.0, 0)
    extra = {"temperature": 0.25, "top_p": 0.5, "top_k": 7}
    client.messages.create(**ASK, extra_body=extra)
    sampling = front.engine.submitted[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    client.messages.create(**ASK, extra_body={"top_p": 0, "top_k": -1})
    assert front.engine.submitted[-1].sampling.temperature == 0.0


def test_alias_is_echoed(client):
    assert client.messages.create(**ASK | {"model": "claude-opus-9"}).model == "claude-opus-9"
    with client.messages.stream(**ASK | {"model": "claude-opus-9"}) as stream:
        assert stream.get_final_message().model == "claude-opus-9"


def test_models(client):
    models = list(client.models.list())
    assert [model.id for model in models] == [MODEL]
    assert client.models.retrieve(MODEL).display_name == MODEL
    assert client.models.retrieve("claude-x").id == "claude-x"
    with pytest.raises(anthropic.NotFoundError, match="resident model is 'tiny/model'"):
        client.models.retrieve("gpt")


def test_unknown_model(client):
    with pytest.raises(
        anthropic.NotFoundError, match=r"resident model is 'tiny/model' \(model.aliases: claude-\*\)"
    ) as caught:
        client.messages.create(**ASK | {"model": "mistral"})
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="mistral", messages=ASK["messages"])


def test_prompt_too_long(client):
    long = {"messages": [{"role": "user", "content": "word " * 2000}]}
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 512 maximum"):
        client.messages.create(**ASK | long)
    assert client.messages.count_tokens(model=MODEL, **long).input_tokens > 512


def test_engine_failure_before_the_first_token_has_a_status(front, client):
    front.engine.client.close("The engine died 5 times.")
    with pytest.raises(anthropic.InternalServerError, match="The engine died 5 times"):
        client.messages.create(**ASK)
    with pytest.raises(anthropic.InternalServerError, match="The engine died 5 times"):
        client.messages.create(**ASK, stream=True)


def test_engine_failure_in_the_middle_is_an_error_event(front, client):
    front.engine.answer = lambda _: ids_of("never ending ")  # and says nothing more
    with client.messages.stream(**ASK) as stream:
        assert next(stream.text_stream)
        front.engine.client.close("The engine died.")
        with pytest.raises(anthropic.APIStatusError, match=r"The engine died\."):
            stream.until_done()


def test_refused_by_the_engine(front, client):
    front.engine.refusal = "not with this engine"
    with pytest.raises(anthropic.BadRequestError, match="not with this engine"):
        client.messages.create(**ASK)


def test_draining(front, client):
    front.daemon.status.enter(Phase.DRAINING)
    with pytest.raises(anthropic.APIStatusError, match="shutting down") as caught:
        client.messages.create(**ASK)
    assert caught.value.status_code == 503


def test_retries_of_the_sdk_outlast_an_overload(front):
    with anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=3) as client:
        front.admission.max_concurrent, front.admission.max_queued = 1, 0
        front.admission._mean_seconds = 0.1  # or the first guess of Retry-After is waited for
        ticket = front.admission.enter()
        calls = []
        refuse = front.admission.enter_together

        def enter(count):
            calls.append(1)
            if len(calls) == 2:
                ticket.leave()
            return refuse(count)

        front.admission.enter_together = enter
        assert client.messages.create(**ASK).stop_reason == "end_turn"
        assert len(calls) == 2


def test_tokens_that_arrive_together_are_one_delta():
    with (
        running_front(f"one two three four five six{END}", tokens_per_step=1000) as front,
        anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as client,
    ):
        deltas = [
            event
            for event in client.messages.create(**ASK, stream=True)
            if event.type == "content_block_delta"
        ]
        assert [delta.delta.text for delta in deltas] == ["one two three four five six"]
