"""The memory guard in the real engine process, as the daemon hears of it."""

import time

import pytest
from structlog.testing import capture_logs

from pensieved import machine
from pensieved.engine.protocol import Sampling
from pensieved.engine.supervisor import Engine, EngineConfig
from pensieved.errors import RequestError, RequestErrorKind
from support import tiny

pytestmark = pytest.mark.slow

TOO_MUCH = 1 << 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_files(tmp_path_factory.mktemp("tiny"), tiny.llama_files(seed=3))


@pytest.fixture
def start(model, tmp_path):
    engines = []

    def begin(margin):
        engine = Engine(EngineConfig(cache_dir=tmp_path, device="cpu"), lambda *_: None)
        engines.append(engine)
        engine.load(model, max_concurrent=4, safety_margin=margin)
        return engine

    yield begin
    for engine in engines:
        engine.stop(5)


def heard(engine):
    deadline = time.monotonic() + 30
    while not engine.stats.memory.margin:
        assert time.monotonic() < deadline, "the engine never spoke of memory"
        time.sleep(0.05)
    return engine.stats.memory


def answered(engine, tokens):
    generation = engine.client.submit([5] * 20, max_tokens=tokens, stop_tokens=(), sampling=Sampling())
    while generation.next(30.0).finish is None:
        pass
    return len(generation.produced)


def test_it_says_what_the_machine_has(start):
    engine = start(None)
    memory = heard(engine)
    assert 0 < memory.available <= machine.total_memory()
    assert 0 < memory.margin <= machine.total_memory() // 8
    assert not memory.closed
    assert answered(engine, 12) == 12


def test_where_the_margin_is_the_whole_machine_nothing_is_answered_and_all_say_why(start):
    with capture_logs() as logs:
        engine = start(TOO_MUCH)
        assert heard(engine).closed
    assert [line["safety_margin"] for line in logs if line["event"] == "memory.closed"] == [TOO_MUCH]
    with pytest.raises(RequestError) as caught:
        answered(engine, 12)
    assert caught.value.kind is RequestErrorKind.INVALID
    assert "memory.safety_margin" in caught.value.what
