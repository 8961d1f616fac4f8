"""The reconcile loop with a real preparer, real supervisors and scripted engine processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pensieved.control.reconcile import Reconciler
from pensieved.control.status import Phase, StatusBoard
from pensieved.control.succession import Succession
from pensieved.engine.protocol import Sampling
from pensieved.engine.supervisor import Engine, EngineState
from pensieved.settings import load_settings
from support.engines import CRASH, PERMANENT, Script, engine_config, lives
from support.front import wait_until
from support.tiny import llama_config, llama_files, write_files

pytestmark = pytest.mark.slow  # the preparer imports MLX

SETTLED = {Phase.READY, Phase.FAILED, Phase.DEGRADED}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models' folders."""
    folder = tmp_path_factory.mktemp("source")
    return [write_files(folder / name, llama_files()) for name in ("tiny", "other")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Shared, so that only the first test has to prepare."""
    return tmp_path_factory.mktemp("cache")


class World:
    """A reconcile loop, and what it did."""

    def __init__(self, folder, cache, *, fits=True):
        self.folder, self.cache = folder, cache
        self.scripts, self.engine_settings = [Script()], {}
        self.statuses, self.phases, self.upcoming, self.made = [], [], [], []
        self.board = StatusBoard()
        self.board.subscribe(self._note)
        self.fits = fits
        self.succession = Succession(self.board, self._make, lambda *_: self.fits)
        self.reconciler = None

    def _note(self, status):
        self.statuses.append(status)
        self.phases.append(status.phase)
        if status.upcoming:
            self.upcoming.append((status.upcoming.model, status.upcoming.phase))

    def _make(self, config, on_state):
        """The next script's engine; the last script goes on for ever."""
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        scripted = engine_config(self.folder, replace(script), **self.engine_settings)
        engine = Engine(replace(config, command=scripted.command, **self.engine_settings), on_state)
        self.made.append(engine)
        return engine

    def settings(self, url, **sections):
        return load_settings({"model": {"url": str(url)}, "cache": {"dir": self.cache}} | sections)

    def begin(self, url, **sections):
        self.reconciler = Reconciler(self.settings(url, **sections), self.succession)
        self.reconciler.start()

    def start(self, url, **sections):
        self.begin(url, **sections)
        return self.settle()

    def fall_asleep(self, url):
        """Started, and left alone until the engine has left memory; it may be ready for a moment only."""
        self.begin(url, engine={"idle_unload": 0.3})
        self.settle(Phase.IDLE)
        wait_until(lambda: self.succession.engine.stats.pid is None)

    def want(self, url, **sections):
        self.reconciler.want(self.settings(url, **sections))

    def passed(self, phase):
        """The first status of that phase: it may be over by now, as a retry begins soon."""
        wait_until(lambda: phase in self.phases, 120)
        return next(status for status in self.statuses if status.phase is phase)

    def settle(self, phase=None, model=None):
        """What came of the latest wish, once it was acted upon: not what the board still says from before."""
        wait_until(lambda: self.reconciler.settled, 120)

        def there(status):
            serving = self.succession.serving
            return (
                status.phase in ({phase} if phase else SETTLED)
                and status.upcoming is None
                and (model is None or (serving is not None and serving.name == model))
            )

        status = self.board.wait(there, 120)
        assert there(status), status
        return status

    @property
    def serving(self):
        return self.succession.serving

    def ask(self, count=5):
        """A generation on the model that answers."""
        return self.serving.engine.submit([1], max_tokens=count, stop_tokens=(), sampling=Sampling())


@pytest.fixture
def world(tmp_path, cache):
    """Everything in it ends with the test."""
    worlds = []

    def make(**options):
        worlds.append(World(tmp_path, cache, **options))
        return worlds[-1]

    yield make
    for each in worlds:
        if each.reconciler:
            each.reconciler.stop()
        assert not each.succession.retiring


def drain(generation):
    """All ids of a generation."""
    ids = []
    while True:
        chunk = generation.next(30)
        assert chunk is not None, "nothing came"
        ids += chunk.tokens
        if chunk.finish:
            return ids


def test_a_model_becomes_ready_through_the_phases(world, models):
    w = world()
    assert w.start(models[0]).phase is Phase.READY
    assert w.phases.index(Phase.LOADING) < w.phases.index(Phase.READY)
    assert w.serving.name == "tiny"
    assert w.serving.context_length == 512
    assert w.serving.answers_to("claude-something")
    assert not w.serving.answers_to("something-else")
    assert len(drain(w.ask())) == 5


def test_requests_are_answered_while_the_engine_still_compiles(world, models, tmp_path):
    world = world()
    gate = tmp_path / "warm"
    world.scripts = [Script(warm_file=str(gate))]
    world.begin(models[0])
    wait_until(lambda: world.serving and world.reconciler.settled, 120)
    assert len(drain(world.ask())) == 5
    assert world.board.current.phase is Phase.WARMING
    world.want(models[0])  # a reload in between changes nothing of that
    wait_until(lambda: world.reconciler.settled)
    assert world.board.current.phase is Phase.WARMING
    gate.touch()
    world.settle(Phase.READY)


def test_a_new_model_takes_over_when_nothing_is_left_to_compile(world, models, tmp_path):
    world = world()
    gate = tmp_path / "warm"
    world.scripts = [Script(), Script(warm_file=str(gate))]
    world.start(models[0])
    world.want(models[1])
    wait_until(lambda: ("other", Phase.WARMING) in world.upcoming, 120)
    wait_until(lambda: len(world.made) == 2 and world.made[1].stats.state is EngineState.WARMING)
    assert world.serving.name == "tiny"
    assert len(drain(world.ask())) == 5
    gate.touch()
    world.settle(Phase.READY, "other")


def test_an_unsupported_architecture_waits_for_a_change(world, models, tmp_path):
    folder = write_files(tmp_path / "odd", llama_files())
    (folder / "config.json").write_text(json.dumps(llama_config(model_type="nosucharch")))
    w = world()
    status = w.start(folder)
    assert (status.phase, status.retry_at) == (Phase.FAILED, None)
    assert "nosucharch" in status.error
    assert w.serving is None
    w.want(models[0])
    assert w.settle(Phase.READY).error is None


def test_a_model_the_engine_cannot_load_waits_for_a_change(world, models):
    w = world()
    w.scripts = [Script(on_load=PERMANENT), Script()]
    status = w.start(models[0])
    assert (status.phase, status.retry_at) == (Phase.FAILED, None)
    assert "scripted fault" in status.error
    w.want(models[0])  # the same again: as `pensieved reload` does
    w.settle(Phase.READY)


def test_an_engine_that_dies_at_every_load_is_tried_again_later(world, models):
    w = world()
    w.scripts, w.engine_settings = [Script(on_load=CRASH), Script()], {"max_restarts": 2}
    w.begin(models[0])
    assert w.passed(Phase.FAILED).retry_at is not None
    w.settle(Phase.READY)


def test_an_engine_that_dies_while_serving_comes_back(world, models):
    w = world()
    w.start(models[0])
    serving, dead = w.serving, w.succession.engine.stats.pid
    w.phases.clear()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: Phase.LOADING in w.phases and w.phases[-1] is Phase.READY, 60)
    assert set(w.phases) == {Phase.LOADING, Phase.READY}
    assert w.succession.engine.stats.pid != dead
    assert w.serving is serving


def test_a_crash_loop_ends_in_failed_and_a_reload_tries_again(world, models):
    w = world()
    w.engine_settings = {"max_restarts": 2}
    w.start(models[0])
    engine = w.succession.engine
    for _ in range(2):
        dead = engine.stats.pid
        os.kill(dead, signal.SIGSEGV)
        w.board.wait(lambda s, dead=dead: s.phase in SETTLED and engine.stats.pid != dead, 60)
    status = w.settle(Phase.FAILED)
    assert "died again and again" in status.error
    assert "pensieved reload" in status.hint
    w.want(models[0])
    w.settle(Phase.READY)
    assert w.succession.engine is not engine
    assert len(drain(w.ask())) == 5


def test_what_needs_no_other_engine_is_applied_beside_it(world, models):
    w = world()
    w.start(models[0])
    before = w.serving
    w.want(
        models[0],
        model={"url": str(models[0]), "aliases": ["mine"], "context_length": 99},
        engine={"hang_timeout": 7},
    )
    wait_until(lambda: w.serving is not before)
    assert (w.serving.aliases, w.serving.context_length) == (("mine",), 99)
    assert w.serving.engine is before.engine
    assert w.succession.engine.config.hang_timeout == 7
    assert len(w.made) == 1
    assert Phase.LOADING not in w.phases[w.phases.index(Phase.READY) :]


def test_a_new_model_takes_over_beside_the_old_and_answers_finish_where_they_began(world, models):
    w = world()
    w.scripts = [Script(first=1000, step_delay=0.02), Script(first=2000)]
    w.start(models[0])
    os.kill(w.succession.engine.stats.pid, signal.SIGKILL)
    wait_until(lambda: w.succession.engine.stats.restarts == 1)
    wait_until(lambda: w.succession.engine.stats.state is EngineState.READY)  # LOADING was said before that
    w.settle(Phase.READY)
    old = w.serving
    assert old.users.enter()
    running = w.ask(60)
    w.phases.clear()
    w.want(models[1])
    w.settle(Phase.READY, "other")
    assert w.succession.engine_stats().restarts == 1  # of the engine before, too
    assert Phase.LOADING not in w.phases  # somebody answered at every moment
    assert ("other", Phase.LOADING) in w.upcoming
    assert not old.users.enter()  # the next one goes to the new model
    assert drain(w.ask())[0] == 2000
    assert drain(running) == list(range(1000, 1060))
    assert w.succession.retiring == 1
    pid = w.made[0].stats.pid
    old.users.leave()
    wait_until(lambda: not w.succession.retiring)
    assert not _alive(pid)


def test_a_model_that_does_not_fit_beside_replaces_the_old_one_after_its_last_answer(world, models):
    w = world(fits=False)
    w.scripts = [Script(first=1000, step_delay=0.02), Script(first=2000)]
    w.start(models[0])
    old = w.serving
    assert old.users.enter()
    running = w.ask(40)
    w.want(models[1])
    wait_until(lambda: w.serving is None)
    assert drain(running) == list(range(1000, 1040))
    assert w.made[0].stats.pid is not None  # still there, until the answer says that it is over
    old.users.leave()
    w.settle(Phase.READY, "other")
    assert w.made[0].stats.pid is None
    assert drain(w.ask())[0] == 2000


@pytest.mark.parametrize("fits", [True, False])
def test_when_the_new_model_fails_the_old_one_serves_on(world, models, fits):
    w = world(fits=fits)
    w.scripts = [Script(first=1000), Script(on_load=PERMANENT), Script(first=3000)]
    w.start(models[0])
    w.want(models[1])
    status = w.settle(Phase.DEGRADED, "tiny")
    assert "scripted fault" in status.error
    assert status.retry_at is None
    assert drain(w.ask())[0] == (1000 if fits else 3000)
    w.want(models[0])  # the change is taken back
    assert w.settle(Phase.READY, "tiny").error is None


@pytest.mark.parametrize("fits", [True, False])
def test_when_the_new_model_dies_while_it_compiles_the_old_one_serves_on(world, models, fits):
    world = world(fits=fits)
    world.scripts = [Script(), Script(on_warm=PERMANENT), Script()]
    world.start(models[0])
    world.want(models[1])
    assert world.settle(Phase.DEGRADED, "tiny").error
    assert len(drain(world.ask())) == 5


def test_a_reload_leaves_a_sleeping_engine_asleep(world, models):
    world = world()
    world.fall_asleep(models[0])
    world.want(models[0], engine={"idle_unload": 0.3})
    wait_until(lambda: world.reconciler.settled)
    assert world.board.current.phase is Phase.IDLE


def test_a_temporary_failure_of_a_swap_is_tried_again(world, models):
    w = world()
    w.engine_settings = {"max_restarts": 1}
    w.scripts = [Script(), Script(on_load=CRASH), Script(first=2000)]
    w.start(models[0])
    w.want(models[1])
    assert w.passed(Phase.DEGRADED).retry_at is not None
    w.settle(Phase.READY, "other")


def test_a_source_that_is_missing_leaves_the_old_model_serving(world, models, tmp_path):
    w = world()
    w.start(models[0])
    w.want(tmp_path / "nowhere")
    status = w.settle(Phase.DEGRADED, "tiny")
    assert "nowhere" in status.error
    assert len(drain(w.ask())) == 5


def test_an_idle_engine_leaves_memory_and_comes_back_for_a_request(world, models, tmp_path):
    w = world()
    w.fall_asleep(models[0])
    assert not _alive(lives(tmp_path)[-1])
    assert w.serving is not None  # what needs no engine, counting tokens, goes on
    w.phases.clear()
    assert len(drain(w.ask())) == 5
    wait_until(lambda: Phase.READY in w.phases)  # it may be asleep again by now
    assert w.succession.engine.stats.restarts == 0  # nothing died
    w.settle(Phase.IDLE)


def test_a_sleeping_engine_is_swapped_and_stopped_like_any_other(world, models):
    w = world()
    w.fall_asleep(models[0])
    w.want(models[1])
    w.settle(Phase.READY, "other")
    assert len(drain(w.ask())) == 5


def test_fifty_swaps_under_load_lose_no_answer_and_leave_nothing_behind(world, models):
    w = world()
    w.scripts = [Script(step_delay=0.002)]
    w.start(models[0])
    stop, failures, answered = threading.Event(), [], []

    def client():
        while not stop.is_set():
            serving = w.serving
            if not serving.users.enter():  # as `http.answer` does: look for the model that answers now
                continue
            try:
                ids = drain(serving.engine.submit([1], max_tokens=20, stop_tokens=(), sampling=Sampling()))
                answered.append(ids == list(range(100, 120)))
            except Exception as error:  # noqa: BLE001  whatever it is, the test must hear of it
                failures.append(error)
            finally:
                serving.users.leave()

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    counts = []
    for number in range(50):
        name = ("other", "tiny")[number % 2]
        w.want(models[(number + 1) % 2])
        w.settle(Phase.READY, name)
        if number in {24, 49}:  # with none on its way out: how many are, depends on the machine
            wait_until(lambda: not w.succession.retiring)
            counts.append(
                SimpleNamespace(fds=len(list(Path("/dev/fd").iterdir())), threads=threading.active_count())
            )
    stop.set()
    for each in clients:
        each.join()
    wait_until(lambda: not w.succession.retiring)
    assert failures == []
    assert len(answered) > 50
    assert all(answered)
    assert len(w.made) == 51
    middle, end = counts
    assert end.fds <= middle.fds + 8
    assert end.threads <= middle.threads + 4


def _alive(pid):
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, TypeError):
        return False
    return True
