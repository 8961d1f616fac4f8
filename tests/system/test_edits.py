"""A running daemon whose TOML is edited: what applies, what is swapped, what is refused, and that clients notice none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import anthropic
import pytest

from support.daemon import running_daemon, wait_for
from support.tiny import llama_config, llama_files, write_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: write_files(folder / name, llama_files()) for name in ("one", "two")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def toml(tmp_path, models):
    path = tmp_path / "pensieved.toml"
    write(path, models["one"])
    return path


def write(path, model, rest=""):
    path.write_text(f"[model]\nurl = {json.dumps(str(model))}\n{rest}")


def status(daemon):
    return daemon.get("/v1/status")[1]


def effects(daemon):
    return {change["key"]: change["effect"] for change in status(daemon)["config"]["changes"]}


def serves(daemon, name):
    now = status(daemon)
    return now["phase"] == "ready" and now["model"]["name"] == name and not now["upcoming"]


def test_an_edit_applies_by_itself_key_by_key(toml, models, cache):
    with running_daemon("--config", str(toml), cache=cache) as daemon:
        write(toml, models["one"], "[server]\nmax_queued = 5\nmax_body = '1MiB'\n")
        wait_for(lambda: effects(daemon), 30, "the edit")
        assert effects(daemon) == {"server.max_queued": "live", "server.max_body": "restart"}
        assert status(daemon)["limits"]["max_queued"] == 5
        assert status(daemon)["config"]["waiting"] == ["server.max_body"]

        write(toml, models["one"], "[server]\nmax_queued = 'many'\n")
        refused = wait_for(lambda: status(daemon)["config"]["error"], 30, "the refusal")
        assert f"{toml}:4: server.max_queued" in refused
        assert status(daemon)["phase"] == "ready"
        assert status(daemon)["limits"]["max_queued"] == 5

        toml.unlink()
        wait_for(lambda: "cannot be read" in (status(daemon)["config"]["error"] or ""), 30, "the loss")
        assert status(daemon)["phase"] == "ready"

        write(toml, models["two"], "[server]\nmax_queued = 6\n")
        wait_for(lambda: serves(daemon, "two"), 60, "the other model")
        assert effects(daemon)["model.url"] == "swap"
        assert status(daemon)["config"]["error"] is None
        assert status(daemon)["limits"]["max_queued"] == 6
        assert daemon.terminate() == 0


def test_sighup_and_the_command_read_it_at_once(toml, models, cache):
    config = toml.parent / "home"
    with running_daemon("--config", str(toml), cache=cache) as daemon:
        before = status(daemon)["config"]["read_at"]
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: status(daemon)["config"]["read_at"] > before, 30, "the reading")

        # The command finds the daemon through the same TOML; its port was chosen by the system.
        port = daemon.url.rpartition(":")[2]
        agent = config / "pensieved" / "pensieved.toml"
        agent.parent.mkdir(parents=True)
        write(agent, models["one"], f"[server]\nport = {port}\n")
        write(toml, models["one"], "[generation]\ntemperature = 0.1\n")
        done = command("reload", home=config)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: effects(daemon) == {"generation.temperature": "live"}, 30, "the edit")
        said = command("status", home=config)
        assert "generation.temperature applied live" in said.stdout, said.stdout
        toml.write_text("[generation]\ntemperature = 9\n")
        done = command("reload", home=config)
        assert done.returncode == 2
        assert "generation.temperature" in done.stderr
        assert "stays in force" in done.stderr
    done = command("reload", home=config)
    assert done.returncode == 3
    assert "No daemon answers" in done.stderr


def command(*args, home):
    import os  # noqa: PLC0415

    return subprocess.run(
        [sys.executable, "-m", "pensieved", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "XDG_CONFIG_HOME": str(home), "HOME": str(home)},
        check=False,
    )


def test_models_are_swapped_under_load_and_no_request_fails(toml, models, cache):
    with running_daemon("--config", str(toml), "--max-concurrent", "4", cache=cache) as daemon:
        stop, failures, answers = threading.Event(), [], []

        def client():
            api = anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0)
            while not stop.is_set():
                try:
                    with api.messages.stream(
                        model="local",
                        max_tokens=40,
                        messages=[{"role": "user", "content": "Go on."}],
                        extra_body={"temperature": 0},
                    ) as stream:
                        answers.append(stream.get_final_message().usage.output_tokens)
                except Exception as error:  # noqa: BLE001  whatever it is, the test must hear of it
                    failures.append(error)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for each in clients:
            each.start()
        for number in range(4):
            name = ("two", "one")[number % 2]
            write(toml, models[name])
            wait_for(lambda name=name: serves(daemon, name), 60, name)
        stop.set()
        for each in clients:
            each.join()
        assert failures == []
        assert len(answers) > 4
        wait_for(lambda: len(daemon.children()) == 1, 30, "the old engines' end")


def test_a_model_that_fails_leaves_the_old_one_serving_until_it_is_mended(toml, models, cache, tmp_path):
    with running_daemon("--config", str(toml), cache=cache) as daemon:
        broken = write_files(tmp_path / "broken", llama_files())
        (broken / "config.json").write_text(json.dumps(llama_config(model_type="nosucharch")))
        write(toml, broken)
        wait_for(lambda: status(daemon)["phase"] == "degraded", 30, "degraded")
        now = status(daemon)
        assert "nosucharch" in now["error"]
        assert now["model"]["name"] == "one"
        assert daemon.get("/ready")[0] == 200
        assert daemon.get("/health")[1]["status"] == "degraded"
        write(toml, models["two"])
        wait_for(lambda: serves(daemon, "two"), 60, "the other model")


def test_an_idle_engine_leaves_memory_and_the_next_request_is_answered(toml, models, cache):
    write(toml, models["one"], "[engine]\nidle_unload = '1s'\n")
    with running_daemon("--config", str(toml), cache=cache) as daemon:
        wait_for(lambda: status(daemon)["phase"] == "idle", 30, "idle")
        wait_for(lambda: not daemon.children(), 30, "no engine")
        assert daemon.get("/ready")[0] == 200
        api = anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0)
        message = api.messages.create(
            model="local", max_tokens=5, messages=[{"role": "user", "content": "Hello"}]
        )
        assert message.usage.output_tokens > 0
        assert status(daemon)["engine"]["restarts"] == 0
