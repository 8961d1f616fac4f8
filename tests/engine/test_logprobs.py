"""Log-probabilities from the real engine with a tiny random model, against numpy."""

import os
import random
import signal

import numpy as np
import pytest

from pensieved.engine import launch
from pensieved.engine.protocol import Sampling
from pensieved.engine.supervisor import Engine, EngineConfig
from support import tiny
from support.logits import log_softmax, logits

pytestmark = pytest.mark.slow

VOCABULARY = 320
LENGTH = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_files(tmp_path_factory.mktemp("tiny"), tiny.llama_files(seed=3))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return EngineConfig(cache_dir=tmp_path_factory.mktemp("cache"), device="cpu", prefill_chunk=32)


@pytest.fixture(scope="module")
def engine(model, config):
    engine = Engine(config, lambda *_: None)
    try:
        engine.start()
        engine.load(model, max_concurrent=6)
        yield engine
    finally:
        engine.stop(5)


def prompts(count):
    chance = random.Random(5)
    return [[chance.randrange(VOCABULARY) for _ in range(2 + 13 * i)] for i in range(count)]


def submit(engine, prompt, logprobs=None, max_tokens=LENGTH, stop=(), **sampling):
    return engine.client.submit(
        prompt, max_tokens=max_tokens, stop_tokens=stop, sampling=Sampling(**sampling), logprobs=logprobs
    )


def collect(generation):
    tokens, logprobs = [], []
    while True:
        chunk = generation.next(60.0)
        tokens += chunk.tokens
        logprobs += chunk.logprobs
        if chunk.finish is not None:
            return tokens, logprobs


def recomputed(model, config, prompt, tokens):
    """Log-probabilities at each place of the answer, one row a place."""
    (rows,) = logits(model, [[*prompt, *tokens]], launch.environment(config))
    return log_softmax(rows[len(prompt) - 1 : -1])


def check(found, tokens, rows, top):
    assert len(found) == len(tokens) == len(rows)
    for entry, token, row in zip(found, tokens, rows, strict=True):
        assert entry.chosen == pytest.approx(row[token], abs=1e-4)
        assert len(entry.top) == top
        assert [value for _, value in entry.top] == pytest.approx(np.sort(row)[::-1][:top], abs=1e-4)
        for other, value in entry.top:
            assert value == pytest.approx(row[other], abs=1e-4)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 0.9, "top_k": 4}])
def test_values_equal_numpy_of_the_same_logits(engine, model, config, sampling):
    prompt = prompts(3)[2]
    tokens, found = collect(submit(engine, prompt, 5, **sampling))
    check(found, tokens, recomputed(model, config, prompt, tokens), 5)


def test_rows_that_ask_for_different_numbers_beside_rows_that_do_not_ask(engine, model, config):
    wanted = [None, 0, 1, 20, None, 7]
    generations = [submit(engine, prompt, number) for prompt, number in zip(prompts(6), wanted, strict=True)]
    for prompt, number, generation in zip(prompts(6), wanted, generations, strict=True):
        tokens, found = collect(generation)
        if number is None:
            assert found == []
        else:
            check(found, tokens, recomputed(model, config, prompt, tokens), number)


def test_asking_changes_nothing(engine):
    prompt = prompts(3)[2]
    plain = collect(submit(engine, prompt, temperature=1.0, seed=9))[0]
    assert collect(submit(engine, prompt, 20, temperature=1.0, seed=9))[0] == plain


def test_the_stop_token_has_its_own(engine):
    prompt = prompts(3)[1]
    tokens, _ = collect(submit(engine, prompt))
    stopped, found = collect(submit(engine, prompt, 2, stop=(tokens[4],)))
    assert len(found) == len(stopped) == tokens.index(tokens[4]) + 1


def test_a_bias_is_part_of_them(engine, model, config):
    prompt = prompts(3)[1]
    tokens, found = collect(submit(engine, prompt, 3, logit_bias=((77, 5.0),), max_tokens=1))
    (rows,) = logits(model, [prompt], launch.environment(config))
    rows[-1, 77] += 5.0
    check(found, tokens, log_softmax(rows[-1:]), 3)


def test_more_than_the_vocabulary_is_all_of_it(engine):
    _, (found,) = collect(submit(engine, prompts(2)[1], VOCABULARY + 5, max_tokens=1))
    assert sorted(token for token, _ in found.top) == list(range(VOCABULARY))
    assert sum(np.exp(value) for _, value in found.top) == pytest.approx(1.0, abs=1e-4)


def test_those_of_before_a_death_are_kept(engine, model, config):
    prompt = prompts(4)[3]
    generation = submit(engine, prompt, 3, max_tokens=1000)  # not ended when the signal comes
    while len(generation.produced) < 20:
        generation.next(10)
    generation._taken = 0
    os.kill(engine.stats.pid, signal.SIGKILL)
    tokens, found = collect(generation)
    assert engine.client.resumed >= 1
    check(found, tokens, recomputed(model, config, prompt, tokens), 3)


def test_only_the_tokens_own(engine, model, config):
    prompt = prompts(3)[2]
    tokens, found = collect(submit(engine, prompt, 0))
    check(found, tokens, recomputed(model, config, prompt, tokens), 0)
