"""Start, stop, refuse, survive: the daemon as its operator meets it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import anthropic
import httpx2
import psutil
import pytest

from support.daemon import ended, running_daemon, wait_for

pytestmark = pytest.mark.slow  # daemons are processes

STORY = {
    "model": "local",
    "messages": [{"role": "user", "content": "Tell me a long story about a river."}],
    "extra_body": {"temperature": 0},
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}


def command(*args, env=None):
    return subprocess.run(
        [sys.executable, "-m", "pensieved", *args],
        capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip


def client_of(daemon):
    return anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0)


@contextlib.contextmanager
def held(process):
    """Nothing comes from it meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--model-url", "not a model"], 2, "org/name"),
        (["--model-url", "https://example.com/x"], 2, "org/name"),
        (["--model-url", "/nowhere/at/all"], 2, "/nowhere/at/all"),
        (["--port", "70000"], 2, "server.port"),
        (["--quantization", "2bit"], 2, "model.quantization"),
        (["--config", "/nowhere/pensieved.toml"], 2, "/nowhere/pensieved.toml"),
        (["--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(args, code, says, tmp_path):
    done = command("run", "--cache-dir", str(tmp_path / "cache"), *args)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cache").exists()


def test_a_taken_port_names_its_holder_and_exits_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("run", "--cache-dir", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert str(os.getpid()) in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_help():
    assert command("--version").stdout == command("version").stdout != ""
    assert "run" in command("--help").stdout


def test_health_answers_while_the_model_cannot_be_had(tmp_path):
    with running_daemon(
        "--model-url", "pypi:no-such-model-here", cache=tmp_path, env=OFFLINE, ready=False
    ) as daemon:
        status, health = daemon.get("/health")
        assert status == 200
        assert health["model_loaded"] is False
        assert daemon.get("/ready")[0] == 503
        wait_for(lambda: daemon.get("/v1/status")[1]["phase"] == "failed", 60, "the failure to be said")
        with client_of(daemon) as client, pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(max_tokens=4, **STORY)
        assert caught.value.status_code in {503, 529}
        assert daemon.terminate() == 0


def test_every_page_of_the_document_is_there_in_the_process_that_users_start(tmp_path):
    """Tests of pages share a process with all that is installed; a daemon imports little, and some of it late."""
    with running_daemon(
        "--model-url", "pypi:no-such-model-here", cache=tmp_path, env=OFFLINE, ready=False
    ) as daemon:
        paths = daemon.get("/openapi.json")[1]["paths"]
        pages = [path for path, methods in paths.items() if "get" in methods and "{" not in path]
        answers = {path: httpx2.get(daemon.url + path, trust_env=False).status_code for path in pages}
        assert {"/metrics", "/health", "/v1/status"} <= answers.keys()
        assert {path: code for path, code in answers.items() if code != 200} == {"/ready": 503}


def test_ready_again_from_the_cache_without_network(starter_cache):
    with running_daemon(cache=starter_cache, env=OFFLINE) as daemon, client_of(daemon) as client:
        assert client.messages.create(max_tokens=4, **STORY).usage.output_tokens == 4


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_running_requests_refuses_new_ones_and_exits_0(starter_cache, signum):
    # a busy machine may be slow, and nobody shall think that the engine hangs while it is held
    patient = {"PENSIEVED_SERVER__DRAIN_TIMEOUT": "5m", "PENSIEVED_ENGINE__HANG_TIMEOUT": "5m"}
    with running_daemon(cache=starter_cache, env=patient) as daemon, client_of(daemon) as client:
        engine = psutil.Process(daemon.engine_pid())
        with client.messages.stream(max_tokens=40, **STORY) as stream:
            next(iter(stream.text_stream))
            with held(engine):  # else the answer may end, and the daemon with it, before it was looked at
                daemon.process.send_signal(signum)
                wait_for(lambda: daemon.get("/health")[1]["phase"] == "draining", 60, "draining")
                with pytest.raises(anthropic.APIStatusError) as caught:
                    client.messages.create(max_tokens=4, **STORY)
                assert caught.value.status_code == 503
            assert stream.get_final_message().usage.output_tokens == 40
        assert daemon.finish() == 0
        assert not engine.is_running()


def test_drain_timeout_cuts_what_does_not_finish(starter_cache):
    env = {"PENSIEVED_SERVER__DRAIN_TIMEOUT": "300ms"}
    with running_daemon(cache=starter_cache, env=env) as daemon, client_of(daemon) as client:
        with client.messages.stream(max_tokens=4000, **STORY) as stream:
            next(iter(stream.text_stream))
            daemon.process.terminate()
            with pytest.raises((anthropic.APIError, anthropic.APIConnectionError, Exception)):
                stream.get_final_message()
        assert daemon.finish() == 0


def test_the_engine_does_not_outlive_a_daemon_killed_with_9(starter_cache):
    with running_daemon(cache=starter_cache) as daemon:
        engine = psutil.Process(daemon.engine_pid())
        with client_of(daemon) as client, client.messages.stream(max_tokens=4000, **STORY) as stream:
            next(iter(stream.text_stream))
            daemon.process.kill()
            wait_for(lambda: ended(engine), 60, "the engine's end")


def test_eight_streams_survive_kill_9_of_the_engine_with_the_same_texts(starter_cache):
    with running_daemon("--max-concurrent", "8", cache=starter_cache) as daemon, client_of(daemon) as client:
        undisturbed = _eight_streams(client, threading.Event())
        started = threading.Event()
        killed: list[int] = []

        def kill() -> None:
            started.wait(120)
            killed.append(daemon.engine_pid())
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        disturbed = _eight_streams(client, started)
        killer.join()
        wait_for(lambda: daemon.engine_pid() not in {None, killed[0]}, 60, "another engine")
        assert disturbed == undisturbed


def _eight_streams(client, started):
    """Eight greedy answers at once; `started` is set when each has begun."""
    begun = threading.Barrier(8, action=started.set)
    texts: dict[int, str] = {}

    def one(number: int) -> None:
        messages = [{"role": "user", "content": f"Tell me a story about {number} lamps."}]
        with client.messages.stream(
            model="local", max_tokens=24, messages=messages, extra_body={"temperature": 0}
        ) as stream:
            pieces = iter(stream.text_stream)
            first = next(pieces)
            begun.wait(120)
            texts[number] = first + "".join(pieces)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8, "a stream failed"
    return texts
