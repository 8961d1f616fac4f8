"""The real engine process with a tiny random model."""

import json
import os
import random
import shutil
import signal
import time

import pytest

from pensieved.engine import launch
from pensieved.engine.protocol import FinishReason, Sampling
from pensieved.engine.supervisor import Engine, EngineConfig, EngineState
from pensieved.errors import RequestError, RequestErrorKind, UnsupportedModelError
from support import reference, tiny

pytestmark = pytest.mark.slow

VOCABULARY = 320
CONCURRENT = 6
LENGTH = 40


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
        engine.load(model, max_concurrent=CONCURRENT)
        yield engine
    finally:
        engine.stop(5)


def test_the_engine_leaves_pytorch_where_it_is(model, config, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w'); __version__ = '9.9'"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = Engine(config, lambda *_: None)
    try:
        engine.start()
        engine.load(model, max_concurrent=1)
        tokens, _ = collect(submit(engine, [1, 2, 3], max_tokens=2))
        assert len(tokens) == 2
    finally:
        engine.stop(5)
    assert not (tmp_path / "imported").exists()


def prompts(count, seed=0):
    """Prompts of very different lengths, some longer than a chunk of prefill."""
    chance = random.Random(seed)
    return [[chance.randrange(VOCABULARY) for _ in range(1 + 17 * i)] for i in range(count)]


def submit(engine, prompt, max_tokens=LENGTH, stop=(), **sampling):
    return engine.client.submit(
        prompt, max_tokens=max_tokens, stop_tokens=stop, sampling=Sampling(**sampling)
    )


def collect(generation, timeout=60.0):
    deadline = time.monotonic() + timeout
    tokens = []
    while time.monotonic() < deadline:
        chunk = generation.next(1.0)
        if chunk is not None:
            tokens += chunk.tokens
            if chunk.finish is not None:
                return tokens, chunk.finish
    raise TimeoutError(f"only {len(tokens)} tokens came")


def together(engine, wanted, **sampling):
    return [collect(each)[0] for each in [submit(engine, prompt, **sampling) for prompt in wanted]]


@pytest.fixture(scope="module")
def expected(model, config):
    return reference.greedy(model, prompts(CONCURRENT), LENGTH, launch.environment(config))


def test_greedy_alone_equals_mlx_lm(engine, expected):
    for prompt, tokens in zip(prompts(CONCURRENT), expected, strict=True):
        assert collect(submit(engine, prompt)) == (tokens, FinishReason.LENGTH)


def test_greedy_together_equals_mlx_lm(engine, expected):
    assert together(engine, prompts(CONCURRENT)) == expected


def test_more_requests_than_slots(engine, expected):
    wanted = prompts(CONCURRENT) * 3
    assert together(engine, wanted) == expected * 3


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles nothing for a CPU without g++")
def test_nothing_is_compiled_for_a_cpu(model, tmp_path):
    """Not for a token drawn at a temperature that nobody used before, either."""
    engine = Engine(EngineConfig(cache_dir=tmp_path, device="cpu"), lambda *_: None)
    try:
        engine.start()
        engine.load(model, max_concurrent=2)
        for heat in (0.6, 1.1):
            drawn = together(engine, prompts(2), temperature=heat, top_p=0.9, min_p=0.05)
            assert [len(tokens) for tokens in drawn] == [LENGTH, LENGTH]
    finally:
        engine.stop(5)
    assert [path for path in (tmp_path / "kernels").rglob("*") if path.is_file()] == []


def test_a_stop_token_is_the_last_token(engine, expected):
    for prompt, tokens in zip(prompts(CONCURRENT), expected, strict=True):
        stop = tokens[LENGTH // 2]
        end = tokens.index(stop) + 1
        assert collect(submit(engine, prompt, stop=(stop, VOCABULARY + 5))) == (
            tokens[:end],
            FinishReason.STOP,
        )


def test_max_tokens_of_each_request(engine, expected):
    wanted = [submit(engine, prompt, max_tokens=1 + 3 * i) for i, prompt in enumerate(prompts(CONCURRENT))]
    for i, generation in enumerate(wanted):
        assert collect(generation) == (expected[i][: 1 + 3 * i], FinishReason.LENGTH)


def test_cancel_frees_the_slot_for_those_who_wait(engine, expected):
    endless = [submit(engine, [5, 6, 7 + i], max_tokens=10**6) for i in range(CONCURRENT)]
    waiting = submit(engine, prompts(CONCURRENT)[2])
    for generation in endless:
        assert generation.next(60) is not None
    assert waiting.next(0.2) is None
    endless[0].cancel()
    assert collect(waiting)[0] == expected[2]
    for generation in endless:
        generation.cancel()
    assert engine.stats.running == 0
    assert together(engine, prompts(CONCURRENT)) == expected


def test_cancel_before_and_during_prefill(engine, expected):
    long = [[(7 * i) % VOCABULARY for i in range(400)] for _ in range(3)]
    generations = [submit(engine, prompt) for prompt in long]
    for generation in generations:
        generation.cancel()
    assert together(engine, prompts(CONCURRENT)) == expected


# --- sampling ----------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_alone_and_in_company(engine):
    prompt = prompts(4)[3]
    alone = collect(submit(engine, prompt, temperature=1.0, seed=11))[0]
    company = [submit(engine, each, temperature=0.9) for each in prompts(4)]
    assert collect(submit(engine, prompt, temperature=1.0, seed=11))[0] == alone
    for generation in company:
        collect(generation)


def test_seeds_differ_and_no_seed_differs_each_time(engine):
    prompt = prompts(4)[3]
    drawn = [tuple(collect(submit(engine, prompt, temperature=1.0, seed=seed))[0]) for seed in range(4)]
    drawn += [tuple(collect(submit(engine, prompt, temperature=1.0))[0]) for _ in range(4)]
    assert len(set(drawn)) == 8


def test_a_seeded_stream_goes_on_with_the_same_draw_after_a_death(engine):
    prompt = prompts(4)[3]
    wanted = {"temperature": 1.0, "top_p": 0.95, "seed": 5, "max_tokens": 500}
    undisturbed = collect(submit(engine, prompt, **wanted))[0]
    generation = submit(engine, prompt, **wanted)
    while len(generation.produced) < 20:
        generation.next(10)
    os.kill(engine.stats.pid, signal.SIGKILL)
    while generation.next(60).finish is None:
        pass
    assert list(generation.produced) == undisturbed
    assert engine.client.resumed >= 1


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_p": 1e-6},
        {"top_k": 1},
        {"min_p": 1.0},
        {"temperature": 1e-9},
        {"top_k": 1, "seed": 1},
        {"top_p": 1e-6, "seed": 1},
        {"min_p": 1.0, "seed": 1},
    ],
)
def test_the_narrowest_sampling_is_greedy(engine, expected, sampling):
    sampling = {"temperature": 1.0, **sampling}
    assert together(engine, prompts(CONCURRENT), **sampling) == expected


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": VOCABULARY},
        {"top_k": 10**9},
        {"top_k": -3},
        {"top_p": 0.0},
        {"top_p": 7.0},
        {"min_p": -1.0},
        {"min_p": 5.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -1.0},
        {"temperature": 1e-30},
        {"seed": -(2**70)},
        {"seed": 2**200},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -2.0},
        {"repetition_penalty": float("inf")},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": 1e30},
        {"logit_bias": ((10**6, 5.0), (-1, 5.0), (3, float("inf")))},
    ],
)
@pytest.mark.parametrize("seed", [None, 4])
def test_no_parameter_can_hurt_the_engine(engine, sampling, seed):
    pid = engine.stats.pid
    wanted = {"temperature": 1.0, "seed": seed, **sampling}
    tokens, finish = collect(submit(engine, [1, 2, 3], max_tokens=4, **wanted))
    assert len(tokens) == 4
    assert all(0 <= token < VOCABULARY for token in tokens)
    assert finish is FinishReason.LENGTH
    assert engine.stats.pid == pid


def test_a_bias_forces_and_forbids(engine, expected):
    prompt, tokens = prompts(CONCURRENT)[1], expected[1]
    assert collect(submit(engine, prompt, max_tokens=5, logit_bias=((77, 100.0),)))[0] == [77] * 5
    forbidden = collect(submit(engine, prompt, logit_bias=((tokens[0], -100.0),)))[0]
    assert tokens[0] not in forbidden


def test_presence_penalty_looks_at_the_answer_not_at_the_prompt(engine):
    prompt = list(
        range(VOCABULARY)
    )  # holds every token once: a penalty on the prompt would not change its order
    free = collect(submit(engine, [9] * 30, max_tokens=1))[0]
    assert (
        collect(submit(engine, [*free, *([9] * 29), 9], max_tokens=1, presence_penalty=100.0))[0]
        == collect(submit(engine, [*free, *([9] * 29), 9], max_tokens=1))[0]
    )
    answer = collect(submit(engine, prompt, presence_penalty=100.0))[0]
    assert len(set(answer)) == LENGTH


def test_repetition_penalty_looks_at_the_prompt_too(engine):
    prompt = prompts(CONCURRENT)[2]
    (first,) = collect(submit(engine, prompt, max_tokens=1))[0]
    again = [first, *prompt]
    (before,) = collect(submit(engine, again, max_tokens=1))[0]
    (after,) = collect(submit(engine, [before, *again], max_tokens=1, repetition_penalty=50.0))[0]
    assert after not in {before, first}


# --- refusals and faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "says"),
    [([], 5, "no tokens"), ([1], 0, "max_tokens"), ([VOCABULARY], 5, "outside"), ([-1], 5, "outside")],
)
def test_a_request_that_cannot_run_is_refused(engine, expected, prompt, max_tokens, says):
    pid = engine.stats.pid
    with pytest.raises(RequestError, match=says) as caught:
        collect(submit(engine, prompt, max_tokens=max_tokens))
    assert caught.value.kind is RequestErrorKind.INVALID
    assert collect(submit(engine, prompts(2)[1]))[0] == expected[1]
    assert engine.stats.pid == pid


def break_config(files):
    return {**files, "config.json": b"{"}


def break_type(files):
    config = {**json.loads(files["config.json"]), "model_type": "no_such_type"}
    return {**files, "config.json": json.dumps(config).encode()}


def break_shape(files):
    config = {**json.loads(files["config.json"]), "hidden_size": 64}
    return {**files, "config.json": json.dumps(config).encode()}


def break_weights(files):
    return {**files, "model.safetensors": files["model.safetensors"][:1000]}


def drop_weights(files):
    return {name: data for name, data in files.items() if name != "model.safetensors"}


def ask_for_code(files):
    config = {**json.loads(files["config.json"]), "model_file": "model.py"}
    return {**files, "config.json": json.dumps(config).encode(), "model.py": b"raise SystemExit"}


@pytest.fixture(scope="module")
def loader(config):
    engine = Engine(config, lambda *_: None)
    yield engine
    engine.stop(5)


@pytest.mark.parametrize(
    "damage", [break_config, break_type, break_shape, break_weights, drop_weights, ask_for_code]
)
def test_a_model_that_cannot_be_loaded_is_a_permanent_error(loader, tmp_path, damage):
    folder = tiny.write_files(tmp_path / "model", damage(tiny.llama_files()))
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        loader.load(folder, max_concurrent=2)
    assert loader.stats.restarts == 0


def test_after_a_model_that_could_not_be_loaded_another_one_can(loader, model):
    assert loader.load(model, max_concurrent=2).weight_bytes > 0
    loader.wait_warm()
    assert loader.stats.state is EngineState.READY


def test_a_gpu_that_is_not_there(model, config, loader):
    if loader.load(model, max_concurrent=2).device != "cpu":
        pytest.skip("this machine has a GPU")
    engine = Engine(EngineConfig(cache_dir=config.cache_dir, device="gpu"), lambda *_: None)
    try:
        with pytest.raises(UnsupportedModelError, match=r"engine\.device"):
            engine.load(model, max_concurrent=2)
    finally:
        engine.stop(5)
