"""The prompt cache in the real engine process: over its deaths, and as the daemon hears of it."""

import os
import random
import signal
import time

import pytest

from pensieved.engine.protocol import PromptCacheWish, Sampling
from pensieved.engine.supervisor import Engine, EngineConfig
from support import tiny

pytestmark = pytest.mark.slow

VOCABULARY = 320


def text(length, seed):
    chance = random.Random(seed)
    return [chance.randrange(VOCABULARY) for _ in range(length)]


def until(condition, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def answered(engine, prompt, max_tokens=12):
    """The answer's ids, and what the cache had for it."""
    generation = engine.client.submit(prompt, max_tokens=max_tokens, stop_tokens=(), sampling=Sampling())
    while True:
        chunk = generation.next(60.0)
        assert chunk is not None
        if chunk.finish is not None:
            return list(generation.produced), generation.recalled


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    files = tiny.llama_files(seed=3, max_position_embeddings=4096)
    return tiny.write_files(tmp_path_factory.mktemp("tiny"), files)


@pytest.fixture
def start(model, tmp_path):
    engines = []

    def begin(**wish):
        engine = Engine(EngineConfig(cache_dir=tmp_path, device="cpu"), lambda *_: None)
        engines.append(engine)
        wanted = {
            "memory": None,
            "disk": 1 << 30,
            "folder": str(tmp_path / "prompts" / "model+one"),
            "fingerprint": "one",
        }
        loaded = engine.load(model, max_concurrent=4, prompt_cache=PromptCacheWish(**{**wanted, **wish}))
        assert loaded.cuts
        return engine

    yield begin
    for engine in engines:
        engine.stop(5)


def test_over_a_death_and_a_new_start(start):
    engine = start()
    prompt = text(1200, 1)
    first, recalled = answered(engine, prompt)
    assert recalled.cached == 0
    again, recalled = answered(engine, [*prompt, *first, 7])
    assert recalled.cached >= 1199
    until(lambda: engine.stats.prompt_cache.disk)
    assert engine.stats.prompt_cache.memory > 0
    os.kill(engine.stats.pid, signal.SIGKILL)
    until(lambda: engine.stats.restarts == 1)
    after, recalled = answered(engine, prompt)
    assert (after, recalled.cached) == (first, 1199)
    engine.stop(5)
    engine = start()
    after, recalled = answered(engine, prompt)
    assert (after, recalled.cached) == (first, 1199)
    assert answered(engine, [*prompt, *first, 7])[0] == again


def test_an_answer_that_goes_on_elsewhere_says_what_its_first_engine_had(start):
    engine = start()
    prompt = text(300, 2)
    expected, _ = answered(engine, prompt, max_tokens=200)
    answered(engine, prompt[:150], max_tokens=1)
    generation = engine.client.submit(prompt, max_tokens=200, stop_tokens=(), sampling=Sampling())
    while len(generation.produced) < 10:
        generation.next(60.0)
    first = generation.recalled
    assert first.cached == 299
    os.kill(engine.stats.pid, signal.SIGKILL)
    while True:
        chunk = generation.next(60.0)
        if chunk is not None and chunk.finish is not None:
            break
    assert list(generation.produced) == expected
    assert generation.recalled is first


def test_switched_off_it_says_and_holds_nothing(start, tmp_path):
    engine = start(memory=0)
    for _ in range(2):
        _, recalled = answered(engine, text(1200, 1))
        assert recalled is None
    assert engine.stats.prompt_cache.memory == 0
    assert not (tmp_path / "prompts").exists()
