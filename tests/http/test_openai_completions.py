"""Legacy completions with the real OpenAI SDK against the real server."""

import openai
import pytest

from support.front import END, MODEL, ids_of, running_front

ANSWER = " there was a café. 🙂"


@pytest.fixture
def front():
    with running_front(ANSWER + END) as running:
        yield running


@pytest.fixture
def client(front):
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def ask(client, prompt="Once", **fields):
    return client.completions.create(model=MODEL, prompt=prompt, **{"max_tokens": 100} | fields)


def test_completion(front, client):
    completion = ask(client)
    (choice,) = completion.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == (ANSWER, 0, "stop", None)
    assert (completion.object, completion.model) == ("text_completion", MODEL)
    assert completion.id.startswith("cmpl-")
    assert completion.usage.prompt_tokens == len(ids_of("Once"))
    assert completion.usage.completion_tokens == len(ids_of(ANSWER))
    assert front.engine.submitted[-1].prompt == tuple(ids_of("Once"))


def test_stream(client):
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert (last.choices, last.usage) == ([], ask(client).usage)
    assert all(chunk.choices for chunk in ask(client, stream=True))


def test_the_default_length_is_openais(front, client):
    client.completions.create(model=MODEL, prompt="Once")
    assert front.engine.submitted[-1].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "submitted"),
    [
        ([5, 6, 7], [(5, 6, 7)]),
        ([[5, 6], [7]], [(5, 6), (7,)]),
        (["Once", "Twice"], [tuple(ids_of("Once")), tuple(ids_of("Twice"))]),
        (["Once"], [tuple(ids_of("Once"))]),
    ],
)
def test_prompts(front, client, prompt, submitted):
    completion = ask(client, prompt)
    assert [choice.index for choice in completion.choices] == list(range(len(submitted)))
    assert sorted(each.prompt for each in front.engine.submitted) == sorted(submitted)
    assert completion.usage.prompt_tokens == sum(map(len, submitted))


def test_choices_of_several_prompts(front, client):
    front.engine.answer = lambda submit: ids_of(f"{len(submit.prompt)}{END}")
    completion = ask(client, [[5], [5, 6]], n=3, seed=1, temperature=1)
    assert [choice.text for choice in completion.choices] == ["1", "1", "1", "2", "2", "2"]
    assert [choice.index for choice in completion.choices] == list(range(6))
    assert completion.usage.prompt_tokens == 3
    assert completion.usage.completion_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("prompt", "echoed"), [("Once", "Once"), (ids_of("Twice"), "Twice")])
def test_echo(client, stream, prompt, echoed):
    answer = ask(client, prompt, echo=True, stream=stream)
    pieces = answer if stream else [answer]
    assert "".join(piece.choices[0].text for piece in pieces) == echoed + ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_echo_alone(front, client, stream):
    answer = ask(client, echo=True, max_tokens=0, stream=stream)
    pieces = list(answer) if stream else [answer]
    assert "".join(piece.choices[0].text for piece in pieces) == "Once"
    assert pieces[-1].choices[0].finish_reason == "length"
    assert front.engine.submitted == []


def test_logprobs(client):
    logprobs = ask(client, logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(ids_of(ANSWER))
    assert set(logprobs.token_logprobs) == {-0.25}
    assert [len(top) for top in logprobs.top_logprobs] == [2] * len(logprobs.tokens)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert ANSWER.startswith(token, offset) or "\\x" in token


def test_logprobs_without_likeliest(client):
    logprobs = ask(client, logprobs=0).choices[0].logprobs
    assert logprobs.top_logprobs is None
    assert len(logprobs.tokens) == len(ids_of(ANSWER))


def test_logprobs_of_a_stream_are_those_of_the_whole(client):
    whole = ask(client, logprobs=1).choices[0].logprobs
    pieces = [piece.choices[0].logprobs for piece in ask(client, logprobs=1, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for piece in pieces for item in getattr(piece, name)] == getattr(whole, name)


def test_the_models_turn_is_not_looked_for_in_a_raw_prompt():
    with (
        running_front(f"a\nUser: b{END}") as front,
        openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert ask(client).choices[0].text == "a\nUser: b"


def test_what_equals_the_default_is_accepted(client):
    assert ask(client, n=2, best_of=2, suffix="").choices[1].text == ANSWER


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": []}, "prompt", "no prompt"),
        ({"prompt": [[]]}, "prompt.0", "no tokens"),
        ({"prompt": ""}, "prompt", "no tokens"),
        ({"prompt": [1, "a"]}, "prompt", "mixed"),
        ({"prompt": [-1]}, "prompt.0", "Expected `int` >= 0"),
        ({"prompt": [[2**40]]}, "prompt.0.0", "Expected `int` <= 2147483647"),
        ({"prompt": [4000]}, None, "outside of"),
        ({"prompt": {"a": 1}}, "prompt", "Expected"),
        ({"prompt": ["a"] * 33}, "prompt", "more than 32 answers"),
        ({"suffix": "end"}, "suffix", "middle"),
        ({"best_of": 2}, "best_of", "must equal n"),
        ({"echo": True, "logprobs": 1}, "logprobs", "echoed prompt"),
        ({"logprobs": 21}, "logprobs", "Expected `int` <= 20"),
        ({"n": 9}, "n", "Expected `int` <= 8"),
    ],
)
def test_wrong_field(front, client, fields, param, words):
    front.engine.refusal = "token id outside of 0 to 399" if fields.get("prompt") == [4000] else None
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.completions.create(model=MODEL, **{"prompt": "x"} | fields)
    assert caught.value.param == param
