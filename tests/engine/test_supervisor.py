"""The supervisor and the client against real processes that follow a script."""

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import structlog

from pensieved.engine.protocol import FinishReason, Sampling
from pensieved.engine.supervisor import Engine, EngineState
from pensieved.errors import EngineError, RequestError, RequestErrorKind, UnsupportedModelError
from support import engines
from support.engines import Script, engine_config

pytestmark = pytest.mark.slow  # engine processes

STOP = 7
ELSEWHERE = Path("/model")


@pytest.fixture(autouse=True)
def quiet_log():
    with structlog.testing.capture_logs() as entries:
        yield entries


@contextmanager
def running(folder, script=None, *, load=True, **settings):
    states = []
    engine = Engine(
        engine_config(folder, script, **settings), lambda state, reason: states.append((state, reason))
    )
    engine.states = states
    try:
        engine.start()
        if load:
            engine.load(ELSEWHERE, max_concurrent=8)
            engine.wait_warm()
        yield engine
    finally:
        engine.stop(5)
        assert not [pid for pid in engines.lives(folder) if psutil.pid_exists(pid)]


def submit(engine, prompt=(1, 2, 3), max_tokens=50, stop_tokens=(STOP,)):
    return engine.client.submit(prompt, max_tokens=max_tokens, stop_tokens=stop_tokens, sampling=Sampling())


def collect(generation, timeout=60.0):
    """All tokens and the finish reason, as the consumer reads them."""
    deadline = time.monotonic() + timeout
    tokens = []
    while time.monotonic() < deadline:
        chunk = generation.next(1.0)
        if chunk is not None:
            tokens += chunk.tokens
            if chunk.finish is not None:
                return tokens, chunk.finish
    raise TimeoutError(f"only {len(tokens)} tokens came")


def wait_until(condition, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def at_least(generation, count):
    wait_until(lambda: len(generation.produced) >= count)


# --- a life ------------------------------------------------------------------------------------------------


def test_states_from_start_to_stop(tmp_path):
    with running(tmp_path) as engine:
        assert engine.stats.state is EngineState.READY
        assert engine.stats.pid == engines.lives(tmp_path)[0]
    assert [state for state, _ in engine.states] == ["loading", "warming", "ready", "stopped"]
    assert engine.stats.pid is None


def test_tokens_and_finish_reasons(tmp_path):
    with running(tmp_path, Script(output=[10, 11, 12])) as engine:
        assert collect(submit(engine)) == ([10, 11, 12, STOP], FinishReason.STOP)
        assert collect(submit(engine, max_tokens=2)) == ([10, 11], FinishReason.LENGTH)


def test_a_slow_reader_gets_everything_in_one_chunk(tmp_path):
    with running(tmp_path, Script(output=[10, 11, 12])) as engine:
        generation = submit(engine)
        at_least(generation, 4)
        assert generation.next(0).tokens == (10, 11, 12, STOP)


def test_next_returns_none_while_nothing_comes(tmp_path):
    with running(tmp_path, load=False) as engine:
        assert submit(engine).next(0.01) is None


def test_requests_wait_for_the_model(tmp_path):
    with running(tmp_path, Script(output=[10]), load=False) as engine:
        generation = submit(engine)
        engine.load(ELSEWHERE, max_concurrent=8)
        assert collect(generation) == ([10, STOP], FinishReason.STOP)


def test_refusal_ends_one_request_only(tmp_path):
    with running(tmp_path, Script(poison={66: engines.REFUSE})) as engine:
        other = submit(engine)
        with pytest.raises(RequestError, match="scripted refusal") as caught:
            collect(submit(engine, prompt=(66,)))
        assert caught.value.kind is RequestErrorKind.INVALID
        assert len(collect(other)[0]) == 50
        assert engine.stats.restarts == 0


def test_cancel_frees_the_slot_and_wakes_the_reader(tmp_path):
    with running(tmp_path, Script(step_delay=0.01)) as engine:
        generation = submit(engine, max_tokens=100_000)
        at_least(generation, 1)
        assert engine.stats.running == 1
        generation.cancel()
        generation.cancel()
        assert engine.stats.running == 0
        with pytest.raises(RequestError, match="cancelled"):
            collect(generation)
        # An engine without requests sends heartbeats, which say how many it runs.
        wait_until(lambda: engine.stats.active_memory == 1)
        assert collect(submit(engine, max_tokens=3))[1] is FinishReason.LENGTH


def test_what_the_process_prints_becomes_log_entries(tmp_path, quiet_log):
    with running(tmp_path, Script(chatter="Loading: 100%\nall well")):
        wait_until(lambda: [entry for entry in quiet_log if entry.get("line") == "all well"])
    assert {"line": "Loading: 100%", "log_level": "debug"}.items() <= next(
        entry for entry in quiet_log if entry["event"] == "engine.output"
    ).items()


def test_a_prompt_larger_than_every_socket_buffer_arrives(tmp_path):
    prompt = tuple(range(1000, 401_000))
    with running(tmp_path, Script(echo=True, per_step=50_000)) as engine:
        tokens, _ = collect(submit(engine, prompt=prompt, max_tokens=len(prompt)))
        assert tuple(tokens) == prompt


# --- deaths ------------------------------------------------------------------------------------------------


def check_streams(engine, count=6, length=60):
    generations = [submit(engine, max_tokens=length) for _ in range(count)]
    for generation in generations:
        tokens, finish = collect(generation)
        assert tokens == list(range(100, 100 + length))
        assert finish is FinishReason.LENGTH
        assert list(generation.produced) == tokens


@pytest.mark.parametrize("how", [engines.CRASH, engines.EXIT, engines.FAULT])
@pytest.mark.parametrize("per_step", [1, 3])
def test_streams_resume_without_loss_or_duplication(tmp_path, how, per_step):
    with running(tmp_path, Script(die_after=7, die_how=how, per_step=per_step)) as engine:
        check_streams(engine)
        assert engine.stats.restarts >= 2
        assert engine.stats.resumed >= 6


def test_a_request_whose_last_token_arrived_is_not_run_again(tmp_path):
    script = Script(output=[10, 11], die_after=3, lives=1)
    with running(tmp_path, script) as engine:
        assert collect(submit(engine)) == ([10, 11, STOP], FinishReason.STOP)
        wait_until(lambda: len(engines.lives(tmp_path)) == 2 and engine.stats.state is EngineState.READY)
        assert engine.stats.resumed == 0


def test_kill_9_many_times_under_load(tmp_path):
    with running(tmp_path, Script(step_delay=0.002), max_restarts=3) as engine:
        generations = [submit(engine, max_tokens=3000) for _ in range(8)]
        for kills in range(1, 21):
            before = [len(each.produced) for each in generations]
            wait_until(
                lambda before=before: all(
                    len(g.produced) > b for g, b in zip(generations, before, strict=True)
                )
            )
            os.kill(engine.stats.pid, signal.SIGKILL)
            wait_until(lambda kills=kills: len(engines.lives(tmp_path)) > kills)
        for generation in generations:
            assert collect(generation)[0] == list(range(100, 3100))
        assert engine.stats.restarts == 20


def test_a_stopped_process_is_killed_and_replaced(tmp_path):
    with running(tmp_path, Script(step_delay=0.01), hang_timeout=1.5) as engine:
        generation = submit(engine, max_tokens=300)
        at_least(generation, 5)
        stopped = engine.stats.pid
        os.kill(stopped, signal.SIGSTOP)
        assert collect(generation)[0] == list(range(100, 400))
        assert engine.stats.restarts >= 1
        assert engine.stats.pid != stopped
        assert any("no sign of life" in reason for _, reason in engine.states)


def test_an_idle_engine_is_not_taken_for_hung(tmp_path):
    with running(tmp_path, hang_timeout=2.0) as engine:  # ten times what lies between two signs of life
        time.sleep(3.0)  # what is tested is that nothing happens in this time
        assert len(engines.lives(tmp_path)) == 1
        assert engine.stats.restarts == 0


def test_a_cancelled_request_is_not_resumed(tmp_path):
    with running(tmp_path, Script(step_delay=0.01)) as engine:
        cancelled, kept = (submit(engine, max_tokens=100_000) for _ in range(2))
        at_least(cancelled, 3)
        cancelled.cancel()
        came = len(cancelled.produced)
        os.kill(engine.stats.pid, signal.SIGKILL)
        wait_until(lambda: engine.stats.resumed)
        at_least(kept, len(kept.produced) + 5)
        assert engine.stats.resumed == 1
        assert len(cancelled.produced) == came


@pytest.mark.parametrize("how", [engines.CRASH, engines.EXIT, engines.FAULT])
def test_a_deadly_request_fails_and_the_others_go_on(tmp_path, how):
    with running(tmp_path, Script(poison={66: how}, step_delay=0.01)) as engine:
        before = submit(engine)
        deadly = submit(engine, prompt=(66,))
        after = submit(engine)
        with pytest.raises(EngineError, match="more than once"):
            collect(deadly)
        assert collect(before)[0] == collect(after)[0] == list(range(100, 150))
        assert engine.stats.restarts == 2
        check_streams(engine)


def test_a_request_that_hangs_the_engine_fails(tmp_path):
    with running(tmp_path, Script(poison={66: engines.HANG}), hang_timeout=0.5) as engine:
        with pytest.raises(EngineError, match="more than once"):
            collect(submit(engine, prompt=(66,)))
        check_streams(engine)


# --- the brake ---------------------------------------------------------------------------------------------


def test_a_crash_loop_ends_in_failed_and_load_tries_again(tmp_path):
    script = Script(on_load=engines.CRASH, lives=2)
    with running(tmp_path, script, load=False, max_restarts=2) as engine:
        waiting = submit(engine)
        with pytest.raises(EngineError, match=r"again and again.*SIGSEGV"):
            engine.load(ELSEWHERE, max_concurrent=8)
        with pytest.raises(EngineError, match="again and again"):
            collect(waiting)
        wait_until(lambda: engine.stats.state is EngineState.FAILED)
        with pytest.raises(EngineError, match="again and again"):
            submit(engine)
        assert len(engines.lives(tmp_path)) == 2
        engine.load(ELSEWHERE, max_concurrent=8)
        check_streams(engine)


def test_a_model_that_can_never_load_is_not_tried_twice(tmp_path):
    script = Script(on_load=engines.PERMANENT, lives=1)
    with running(tmp_path, script, load=False) as engine:
        with pytest.raises(UnsupportedModelError, match="scripted fault"):
            engine.load(ELSEWHERE, max_concurrent=8)
        assert len(engines.lives(tmp_path)) == 1
        engine.load(ELSEWHERE, max_concurrent=8)
        check_streams(engine)


def test_whoever_hears_that_it_failed_may_load_again_at_once(tmp_path, monkeypatch):
    script = Script(on_load=engines.PERMANENT, lives=1)
    with running(tmp_path, script, load=False) as engine:
        close, test = engine.client.close, threading.get_ident()

        def close_late(reason):
            if threading.get_ident() != test:
                time.sleep(0.3)  # the supervisor's thread was not given the processor
            close(reason)

        monkeypatch.setattr(engine.client, "close", close_late)
        with pytest.raises(UnsupportedModelError):
            engine.load(ELSEWHERE, max_concurrent=8)
        assert engine.failed
        engine.load(ELSEWHERE, max_concurrent=8)
        assert not engine.failed
        check_streams(engine)


def test_loading_longer_than_load_timeout_is_a_hang(tmp_path):
    script = Script(on_load=engines.HANG, lives=1)
    with running(tmp_path, script, load=False, load_timeout=2.0) as engine:
        engine.load(ELSEWHERE, max_concurrent=8)
        assert engine.stats.restarts >= 1  # a second one that is slow to start may be taken for hung too
        assert any("no sign of life" in reason for _, reason in engine.states)


def test_a_command_that_does_not_exist_fails_with_its_name(tmp_path):
    config = engine_config(tmp_path, max_restarts=1)
    engine = Engine(
        type(config)(cache_dir=tmp_path, command=("/no/such/engine",), max_restarts=1), lambda *_: None
    )
    with pytest.raises(EngineError, match="/no/such/engine"):
        engine.load(ELSEWHERE, max_concurrent=8)
    engine.stop(1)


# --- replacing and stopping --------------------------------------------------------------------------------


def test_loading_another_model_takes_a_new_process_and_ends_old_requests(tmp_path):
    with running(tmp_path, Script(step_delay=0.01)) as engine:
        old = submit(engine, max_tokens=100_000)
        at_least(old, 1)
        engine.load(Path("/other"), max_concurrent=8)
        assert len(engines.lives(tmp_path)) == 2
        assert engine.stats.restarts == 0
        with pytest.raises(EngineError, match="replaced"):
            collect(old)
        check_streams(engine)


def test_stop_while_loading_and_while_stopped(tmp_path):
    with running(tmp_path, Script(load_delay=60), load=False, load_timeout=100) as engine:
        failures = []

        def load():
            try:
                engine.load(ELSEWHERE, max_concurrent=8)
            except EngineError as error:
                failures.append(str(error))

        loader = threading.Thread(target=load)
        loader.start()
        wait_until(lambda: engines.lives(tmp_path))
        engine.stop(5)
        loader.join(60)
        assert "stopped" in failures[0]


def test_stop_kills_a_process_that_does_not_listen(tmp_path):
    with running(tmp_path) as engine:
        os.kill(engine.stats.pid, signal.SIGSTOP)
        engine.stop(0.2)
        assert engine.stats.state is EngineState.STOPPED


def test_stop_fails_what_runs_and_what_comes(tmp_path):
    with running(tmp_path, Script(step_delay=0.01)) as engine:
        generation = submit(engine, max_tokens=100_000)
        at_least(generation, 1)
        engine.stop(5)
        with pytest.raises(EngineError, match="stopped"):
            collect(generation)
        with pytest.raises(EngineError, match="stopped"):
            submit(engine)


def test_stop_before_start(tmp_path):
    engine = Engine(engine_config(tmp_path), lambda *_: None)
    engine.stop(1)
    assert engines.lives(tmp_path) == []
