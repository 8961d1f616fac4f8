"""Chat completions with the real OpenAI SDK against the real server."""

import json

import openai
import pytest
from structlog.testing import capture_logs

from pensieved.control.status import Phase
from support.front import END, MODEL, ids_of, running_front, wait_until

ANSWER = "The capital of France is Paris. 🙂"
USER = {"role": "user", "content": "Capital of France?"}
ASK = {"model": MODEL, "messages": [USER]}


@pytest.fixture
def front():
    with running_front(ANSWER + END) as running:
        yield running


@pytest.fixture
def client(front):
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def prompt_of(front):
    """The last submitted prompt as text, special tokens shown."""
    tokenizer = front.daemon.serving.text._tokenizer
    return tokenizer.decode(front.engine.submitted[-1].prompt, skip_special_tokens=False)


def test_completion(client):
    completion = client.chat.completions.create(**ASK)
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    assert choice.message.tool_calls is None
    assert choice.message.refusal is None
    assert (completion.object, completion.model) == ("chat.completion", MODEL)
    assert completion.id.startswith("chatcmpl-")
    assert completion._request_id.startswith("req_")


def test_usage_is_exact(client):
    usage = client.chat.completions.create(**ASK).usage
    prompt = "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert usage.prompt_tokens == len(ids_of(prompt))
    assert usage.completion_tokens == len(ids_of(ANSWER))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_stream(client):
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    first, *middle, last = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert "".join(choice.delta.content for choice in middle) == ANSWER
    assert {choice.finish_reason for choice in (first, *middle)} == {None}
    assert (last.finish_reason, last.delta.content) == ("stop", None)


def test_stream_on_the_wire(front):
    body = front.post("/v1/chat/completions", ASK | {"stream": True})
    assert body.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert body.headers["x-request-id"] == body.headers["request-id"]
    *lines, done, rest = body.body.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines)


def test_stream_with_usage(front, client):
    *chunks, last = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == client.chat.completions.create(**ASK).usage
    assert all(chunk.usage is None for chunk in chunks)
    raw = front.post(
        "/v1/chat/completions", ASK | {"stream": True, "stream_options": {"include_usage": True}}
    )
    first, *_ = raw.body.decode().split("\n\n")
    assert json.loads(first.removeprefix("data: "))["usage"] is None


def test_the_sdks_own_accumulation(client):
    with client.chat.completions.stream(**ASK) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.content == ANSWER


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["nowhere", "France"], "The capital of "),
        ("capital", "The "),
        ("", ANSWER),
        ([], ANSWER),
        (None, ANSWER),
    ],
)
def test_stop(client, stop, text):
    (choice,) = client.chat.completions.create(**ASK, stop=stop).choices
    assert (choice.message.content, choice.finish_reason) == (text, "stop")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length(front, client, name):
    completion = client.chat.completions.create(**ASK, **{name: 3})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3
    assert front.engine.submitted[-1].max_tokens == 3


def test_the_newer_name_of_the_limit_wins(front, client):
    client.chat.completions.create(**ASK, max_tokens=100, max_completion_tokens=4)
    assert front.engine.submitted[-1].max_tokens == 4


def test_without_a_limit_the_settings_hold_and_what_does_not_fit_is_clamped(front, client):
    client.chat.completions.create(**ASK)
    assert front.engine.submitted[-1].max_tokens == 512 - len(front.engine.submitted[-1].prompt)
    front.engine.answer = lambda _: ids_of("word " * 600)
    (choice,) = client.chat.completions.create(**ASK, max_tokens=10**6).choices
    assert choice.finish_reason == "length"


def test_roles(front, client):
    client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "developer", "content": [{"type": "text", "text": "inner"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "c"}]},
            {"role": "assistant", "content": None, "refusal": "never"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "d", "name": "Ada"},
        ],
    )
    assert prompt_of(front) == (
        "<|im_start|>system\none<|im_end|>\n"
        "<|im_start|>user\na\n\nb<|im_end|>\n"
        "<|im_start|>system\ninner<|im_end|>\n"
        "<|im_start|>assistant\nc\n\nnever<|im_end|>\n"
        "<|im_start|>user\nd<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_final_assistant_turn_is_continued(front, client):
    client.chat.completions.create(model=MODEL, messages=[USER, {"role": "assistant", "content": "It is"}])
    assert prompt_of(front).endswith("<|im_start|>assistant\nIt is")


def test_sampling_reaches_the_engine(front, client):
    client.chat.completions.create(
        **ASK,
        temperature=0.25,
        top_p=0.5,
        seed=-7,
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        logit_bias={"17": -100, "5": 2.5},
        extra_body={"top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5},
    )
    sampling = front.engine.submitted[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.25, 0.5, 7, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.25)
    assert sampling.repetition_penalty == 1.5
    assert sampling.logit_bias == ((17, -100.0), (5, 2.5))
    assert sampling.seed == -7 % 2**64


def test_null_is_absent(front, client):
    names = [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "frequency_penalty",
        "presence_penalty",
        "reasoning_effort",
        "user",
        "store",
        "metadata",
        "functions",
        "function_call",
        "modalities",
        "audio",
        "prediction",
        "verbosity",
    ]
    client.chat.completions.create(**ASK, extra_body=dict.fromkeys(names))
    with_nulls = front.engine.submitted[-1]
    client.chat.completions.create(**ASK)
    without = front.engine.submitted[-1]
    assert with_nulls.sampling == without.sampling
    assert (with_nulls.prompt, with_nulls.max_tokens) == (without.prompt, without.max_tokens)


def test_what_says_nothing_here_is_ignored(client):
    completion = client.chat.completions.create(
        **ASK,
        user="someone",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        prompt_cache_key="k",
        verbosity="low",
        extra_body={"brand_new": [1, {"deep": None}]},
    )
    assert completion.choices[0].message.content == ANSWER


def seeds_of(front, completion):
    """By choice, each of which begins with its request's number: they come to the engine in any order."""
    known = {submit.request: submit.sampling.seed for submit in front.engine.submitted}
    return [known[int(choice.message.content.split()[0])] for choice in completion.choices]


def test_eight_choices(front, client):
    front.admission.max_concurrent = 8
    front.engine.answer = lambda submit: ids_of(f"{submit.request} says hello{END}")
    completion = client.chat.completions.create(**ASK, n=8, seed=5, temperature=1)
    assert [choice.index for choice in completion.choices] == list(range(8))
    assert len({choice.message.content for choice in completion.choices}) == 8
    seeds = seeds_of(front, completion)
    assert seeds[0] == 5
    assert len(set(seeds)) == 8
    assert len({submit.prompt for submit in front.engine.submitted}) == 1
    usage = completion.usage
    assert usage.prompt_tokens == len(front.engine.submitted[0].prompt)
    assert usage.completion_tokens == 8 * len(ids_of("1 says hello"))
    again = client.chat.completions.create(**ASK, n=8, seed=5, temperature=1)
    assert seeds_of(front, again) == seeds


def test_choices_are_streamed_side_by_side(front, client):
    front.engine.answer = lambda submit: ids_of(f"{submit.request % 3} " * 20 + END)
    texts = ["", "", ""]
    finished = []
    switches = 0
    before = None
    for chunk in client.chat.completions.create(
        **ASK, n=3, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finished += [choice.index] if choice.finish_reason else []
            switches += choice.index != before
            before = choice.index
        usage = chunk.usage
    assert sorted(text.split()[0] for text in texts) == ["0", "1", "2"]
    assert sorted(finished) == [0, 1, 2]
    assert switches > 10
    assert usage.completion_tokens == 3 * len(ids_of("1 " * 20))


def test_choices_beyond_the_slots_wait_their_turn(front, client):
    front.admission.max_concurrent = 2
    completion = client.chat.completions.create(**ASK, n=6)
    assert [choice.message.content for choice in completion.choices] == [ANSWER] * 6
    assert (front.admission.running, front.admission.queued) == (0, 0)


def test_all_choices_or_none(front, client):
    front.admission.max_concurrent, front.admission.max_queued = 2, 4
    ticket = front.admission.enter()
    with pytest.raises(openai.InternalServerError, match="Fewer than 6 of 2 slots") as caught:
        client.chat.completions.create(**ASK, n=6)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert (front.admission.running, front.admission.queued) == (1, 0)
    ticket.leave()
    with pytest.raises(openai.BadRequestError, match="7 answers at once are more than the 6"):
        client.chat.completions.create(**ASK, n=7)
    assert front.engine.submitted == []


def test_a_failure_of_one_choice_ends_all(front, client):
    front.engine.answer = lambda _: ids_of("never ending ")  # and says nothing more
    stream = client.chat.completions.create(**ASK, n=3, stream=True)
    next(stream)
    front.engine.client.close("The engine died.")
    with pytest.raises(openai.APIError, match=r"The engine died\."):
        list(stream)
    wait_until(lambda: front.admission.running == 0)
    with pytest.raises(openai.InternalServerError, match=r"The engine died\."):
        client.chat.completions.create(**ASK, n=3)


def test_a_client_that_goes_away_frees_all_choices(front, client):
    front.engine.answer = lambda _: ids_of("on and on " * 40)  # and never ends
    stream = client.chat.completions.create(**ASK, n=3, stream=True)
    next(stream)
    stream.close()
    wait_until(lambda: len(front.engine.cancelled) == 3)
    wait_until(lambda: front.admission.running == 0)


def test_logprobs(client):
    completion = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3)
    content = completion.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == ANSWER
    assert len(content) == completion.usage.completion_tokens
    for token in content:
        assert token.logprob == -0.25
        assert [each.logprob for each in token.top_logprobs] == [-0.25, -1.25, -2.25]
        assert token.top_logprobs[0].token == token.token
    assert "\\xf0" in "".join(token.token for token in content)  # part of the emoji


def test_logprobs_without_likeliest(client):
    content = client.chat.completions.create(**ASK, logprobs=True).choices[0].logprobs.content
    assert {len(token.top_logprobs) for token in content} == {0}
    assert client.chat.completions.create(**ASK, logprobs=False).choices[0].logprobs is None


@pytest.mark.parametrize("stop", [None, "France"])
def test_logprobs_of_a_stream_are_those_of_the_whole(client, stop):
    whole = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2, stop=stop)
    parts = []
    for chunk in client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2, stop=stop, stream=True):
        if chunk.choices[0].logprobs:
            parts += chunk.choices[0].logprobs.content
    assert parts == whole.choices[0].logprobs.content
    assert len(parts) == whole.usage.completion_tokens


def test_nobody_pays_for_logprobs_unasked(front, client):
    client.chat.completions.create(**ASK)
    assert front.engine.submitted[-1].logprobs is None


def test_alias_is_echoed(client):
    assert client.chat.completions.create(**ASK | {"model": "claude-9"}).model == "claude-9"


def test_models(client):
    assert [(model.id, model.object) for model in client.models.list()] == [(MODEL, "model")]
    assert client.models.retrieve(MODEL).owned_by == "pensieved"
    with pytest.raises(openai.NotFoundError, match="resident model is 'tiny/model'") as caught:
        client.models.retrieve("gpt")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_no_embeddings(client):
    with pytest.raises(openai.BadRequestError, match="makes no embeddings") as caught:
        client.embeddings.create(model=MODEL, input="x")
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError, match="no model 'text-embedding-3-small'") as caught:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert caught.value.code == "model_not_found"


def test_the_log_has_one_line_with_sums(client):
    with capture_logs() as logs:
        usage = client.chat.completions.create(**ASK, n=3).usage
        wait_until(lambda: [line for line in logs if line["event"] == "request"])
    (line,) = [line for line in logs if line["event"] == "request"]
    assert (line["route"], line["stream"], line["stop_reason"]) == ("/v1/chat/completions", False, "end")
    assert (line["input_tokens"], line["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert "error" not in line


def test_a_model_that_is_still_loading_is_waited_for(front, client):
    serving, front.daemon.serving = front.daemon.serving, None
    front.daemon.status.enter(Phase.LOADING)
    stream = client.chat.completions.create(**ASK, n=2, stream=True)
    front.daemon.serving = serving
    front.daemon.status.enter(Phase.READY)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [ANSWER, ANSWER]
