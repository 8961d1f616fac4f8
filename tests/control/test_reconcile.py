"""The reconcile loop with a real preparer, a real supervisor and a scripted engine process."""

from __future__ import annotations

import json
import os
import signal

import pytest

from pensieved.control.reconcile import Reconciler
from pensieved.control.status import Phase, StatusBoard
from pensieved.engine.supervisor import Engine
from pensieved.settings import load_settings
from support.engines import CRASH, PERMANENT, Script, engine_config
from support.tiny import llama_config, llama_files, write_files

pytestmark = pytest.mark.slow  # the preparer imports MLX

SETTLED = {Phase.READY, Phase.FAILED}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model's folder."""
    return write_files(tmp_path_factory.mktemp("source") / "tiny", llama_files())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Shared, so that only the first test has to prepare."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def reconcile(tmp_path, cache):
    """Reconcile a model folder with a scripted engine until it settles; everything ends with the test."""
    started = []

    def _reconcile(url, script=None, **engine):
        board = StatusBoard()
        board.phases = []
        board.subscribe(lambda status: board.phases.append(status.phase))
        settings = load_settings({"model": {"url": str(url)}, "cache": {"dir": cache}})

        def on_state(state, detail):
            reconciler.on_engine_state(state, detail)

        engine = Engine(engine_config(tmp_path, script, **engine), on_state)
        reconciler = Reconciler(settings, engine, board, 4)
        started.append((reconciler, engine))
        engine.start()
        reconciler.start()
        board.wait(lambda status: status.phase in SETTLED, 120)
        return reconciler, engine, board

    yield _reconcile
    for reconciler, engine in started:
        reconciler.stop()
        engine.stop(5)


def test_a_model_becomes_ready_through_the_phases(reconcile, model):
    reconciler, engine, board = reconcile(model)
    assert board.current.phase is Phase.READY
    assert [phase for phase in board.phases if phase in {Phase.LOADING, Phase.READY}][-1] is Phase.READY
    assert board.phases.index(Phase.LOADING) < board.phases.index(Phase.READY)
    serving = reconciler.serving
    assert serving.name == "tiny"
    assert serving.context_length == 512
    assert serving.answers_to("claude-something")
    assert not serving.answers_to("something-else")
    assert serving.engine is engine.client


def test_an_unsupported_architecture_waits_for_a_change(reconcile, model, tmp_path):
    folder = write_files(tmp_path / "odd", llama_files())
    (folder / "config.json").write_text(json.dumps(llama_config(model_type="nosucharch")))
    reconciler, _, board = reconcile(folder)
    assert board.current.phase is Phase.FAILED
    assert "nosucharch" in board.current.error
    assert board.current.retry_at is None
    assert reconciler.serving is None


def test_a_model_the_engine_cannot_load_waits_for_a_change(reconcile, model):
    _, _, board = reconcile(model, Script(on_load=PERMANENT))
    assert board.current.phase is Phase.FAILED
    assert "scripted fault" in board.current.error
    assert board.current.retry_at is None


def test_an_engine_that_dies_at_every_load_is_tried_again_later(reconcile, model):
    _, _, board = reconcile(model, Script(on_load=CRASH), max_restarts=2)
    assert board.current.phase is Phase.FAILED
    assert board.current.retry_at is not None


def test_an_engine_that_dies_while_serving_comes_back(reconcile, model):
    reconciler, engine, board = reconcile(model)
    serving, dead = reconciler.serving, engine.stats.pid
    board.phases.clear()
    os.kill(dead, signal.SIGKILL)
    board.wait(lambda _: board.phases[-1:] == [Phase.READY], 60)
    assert board.phases[0] is Phase.LOADING
    assert board.current.phase is Phase.READY
    assert engine.stats.pid != dead
    assert reconciler.serving is serving


def test_a_crash_loop_ends_in_failed(reconcile, model):
    _, engine, board = reconcile(model, max_restarts=2)
    for _ in range(2):
        dead = engine.stats.pid
        os.kill(dead, signal.SIGSEGV)
        board.wait(lambda s, dead=dead: s.phase in SETTLED and engine.stats.pid != dead, 60)
    board.wait(lambda status: status.phase is Phase.FAILED, 60)
    assert "died again and again" in board.current.error
