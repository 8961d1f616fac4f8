"""Started by the first request: real systemd-socket-activate, and launchd's stand-in with its real call."""

from __future__ import annotations

import http.client
import json
import os
import plistlib
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import psutil
import pytest

from support.cli import expect
from support.daemon import wait_for
from support.launchd import Launchd
from support.tiny import llama_files, write_files

pytestmark = pytest.mark.slow

LABEL = "org.pensieved.daemon"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("models") / "tiny", llama_files())


@pytest.fixture(scope="module")
def cache(tmp_path_factory, model):
    """With the model in it: whoever waits for the first answer does not wait for a conversion."""
    folder = tmp_path_factory.mktemp("cache")
    subprocess.run(
        [sys.executable, "-m", "pensieved", "models", "pull", str(model), "--cache-dir", str(folder)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def answer(port):
    """Of a request that is sent once, and waits."""
    body = {"model": "local", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/messages",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed"
)
def test_systemd_hands_over_its_socket_and_the_first_request_is_answered(model, cache, port, tmp_path):
    command = [
        "systemd-socket-activate", f"--listen=127.0.0.1:{port}", f"--setenv=PENSIEVED_MODEL__URL={model}",
        f"--setenv=PENSIEVED_CACHE__DIR={cache}", f"--setenv=HOME={tmp_path}", "--setenv=PATH",
        sys.executable, "-m", "pensieved", "run", "--port", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert "Listening on" in process.stdout.readline()
        assert psutil.Process(process.pid).children() == []
        assert answer(port)["usage"]["output_tokens"] > 0
        (engine,) = psutil.Process(process.pid).children()  # it has become the daemon
        assert _tcp_sockets(engine) == []
        assert _variables(engine) & {"LISTEN_FDS", "LISTEN_PID"} == set()
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"http://127.0.0.1:{port}" in output


@pytest.fixture
def launchd(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    launchd = Launchd(tmp_path / "launchd", home)
    for name, value in launchd.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    try:
        launchd.provide_activation()
    except FileNotFoundError:
        pytest.skip("there is no C compiler for the stand-in's launch_activate_socket")
    yield launchd
    launchd.close()


def test_launchd_holds_the_port_and_starts_the_daemon_with_the_first_request(
    launchd, model, cache, port, tmp_path
):
    config = tmp_path / "mine.toml"
    config.write_text('[server]\nactivation = "launchd"\n[engine]\nidle_unload = "1s"\n')
    words = ("install", "--config", config, "--model-url", model, "--port", port, "--cache-dir", cache)
    expect(0, *words, "--no-wait")
    plist = plistlib.loads((launchd.agents / f"{LABEL}.plist").read_bytes())
    assert plist["Sockets"]["http"]["SockServiceName"] == str(port)
    assert {"RunAtLoad", "KeepAlive"}.isdisjoint(plist)

    # `install` has started it; ended, it waits for a request, and looking at it does not start it
    launchd.run("stop", LABEL)
    wait_for(lambda: launchd.pid(LABEL) is None, 60, "its end")
    assert "starts with the first request" in expect(0, "status").stdout
    assert "unchanged" in expect(0, *words, "--no-wait").stdout
    launchd.run("stop", LABEL)
    wait_for(lambda: launchd.pid(LABEL) is None, 60, "its end")

    assert answer(port)["usage"]["output_tokens"] > 0
    first = launchd.pid(LABEL)
    wait_for(lambda: psutil.Process(first).children() == [], 30, "the idle engine's end")
    assert answer(port)["usage"]["output_tokens"] > 0

    # killed, it comes back with the next request
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: launchd.pid(LABEL) is None, 30, "its end")
    assert answer(port)["usage"]["output_tokens"] > 0
    assert launchd.pid(LABEL) not in {None, first}

    # a configuration that is wrong is told on the very port, and mended without launchd
    launchd.run("stop", LABEL)
    wait_for(lambda: launchd.pid(LABEL) is None, 60, "its end")
    good = config.read_text()
    config.write_text(good + "[nonsense]\n")
    assert _health(port)["status"] == "failed"
    held = launchd.pid(LABEL)
    config.write_text(good)
    wait_for(lambda: _mended(port), 60, "the mended daemon")
    assert answer(port)["usage"]["output_tokens"] > 0
    assert launchd.pid(LABEL) == held
    expect(0, "uninstall")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 5)


def _health(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as response:
        return json.load(response)


def _mended(port):
    try:
        return _health(port)["status"] in {"healthy", "starting"}
    except (OSError, http.client.HTTPException):  # it became the daemon while it was asked
        return False


def _tcp_sockets(process):
    return process.net_connections("tcp")


def _variables(process):
    return set(process.environ())
