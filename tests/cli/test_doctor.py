"""`pensieved doctor` on machines where one thing or another is wrong."""

import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pensieved import __version__
from pensieved.cli.checks import configuration, run, speed
from pensieved.cli.checks.finding import Finding, Level
from pensieved.cli.checks.run import CHECKS, findings, report
from pensieved.cli.checks.scene import look_around
from pensieved.cli.doctor import plain
from pensieved.engine.gauge import Figures
from pensieved.models.cache import ModelCache
from pensieved.models.manifest import ModelFile, write_manifest
from pensieved.models.preparation import PrepareRequest
from pensieved.models.source import parse_source
from pensieved.settings.paths import DEFAULT_LABEL, default_config_file
from support.cli import expect
from support.fakestatus import FakeStatus
from support.front import manifest

QUICK = frozenset({"speed"})
URL = "some/model"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and a shell that says nothing to anybody."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("XDG_", "PENSIEVED_", "HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PENSIEVED_LAUNCHCTL", str(tmp_path / "no-launchctl"))
    return folder


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def toml(home, tmp_path, free_port):
    """Writes the TOML in the default place; a port that is free and a cache of its own are in it."""

    def write(more=""):
        path = default_config_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'[model]\nurl = "{URL}"\n[cache]\ndir = "{tmp_path / "cache"}"\n'
            f"[server]\nport = {free_port}\n{more}"
        )
        return path

    write()
    return write


@pytest.fixture
def cache(tmp_path):
    return ModelCache(tmp_path / "cache")


def key_of(url, cache):
    return PrepareRequest(source=parse_source(url), cache_dir=cache.root).key


def put(cache, url):
    """A prepared model of one small file; returns that."""
    key = key_of(url, cache)
    with cache.writer(key):
        staging = cache.new_staging(key)
        (staging / "weights").write_bytes(b"w" * 100)
        times = (staging / "weights").stat()
        file = ModelFile(path="weights", size=100, sha256="", mtime_ns=times.st_mtime_ns, origin="built")
        write_manifest(staging, msgspec.structs.replace(manifest(), name=URL, files=(file,)))
        return cache.publish(key, staging) / "weights"


def examine(label=DEFAULT_LABEL, config=None):
    return list(findings(look_around(label, config), leave_out=QUICK))


def of(found, check):
    """The findings of one check."""
    return [finding for finding in found if finding.check == check]


def only(found, check):
    (finding,) = of(found, check)
    return finding


def test_a_machine_where_all_is_well(toml, cache):
    put(cache, URL)
    found = examine()
    assert report(found).ok
    levels = {finding.check: finding.level for finding in found}
    assert levels | dict.fromkeys(("configuration", "access", "model", "cache", "daemon"), "ok") == levels
    assert "the port is free" in only(found, "daemon").what
    assert "no launchd" in only(found, "agent").what


def test_json_has_a_stable_shape(toml):
    shown = json.loads(expect(0, "doctor", "--no-speed", "--json").stdout)
    assert set(shown) == {"version", "ok", "findings"}
    assert (shown["version"], shown["ok"]) == (__version__, True)
    for finding in shown["findings"]:
        assert list(finding) == ["check", "level", "what", "why", "todo"]
        assert finding["check"] in CHECKS
        assert finding["level"] in {"ok", "note", "warning", "problem"}
        assert finding["what"]


def test_a_broken_toml_takes_nothing_else_down(toml, home):
    path = toml()
    path.write_text("[server\nport = 1")
    done = expect(1, "doctor", "--no-speed")
    assert f"{path}: this is not TOML" in done.stdout
    for name in set(CHECKS) - {"speed", "folders"}:
        assert f" {name} " in done.stdout


def test_every_wrong_key_is_a_problem_of_its_own(toml):
    path = toml('prot = 1\n[generation]\ntop_p = 7\n[extra]\nx = "y"\n')
    found = of(examine(), "configuration")
    assert [finding.level for finding in found] == [Level.PROBLEM] * 3
    text = " ".join(finding.what for finding in found)
    for part in (
        f"{path}:7: server.prot: unknown key. Did you mean 'port'?",
        f"{path}:9: generation.top_p",
        "extra",
    ):
        assert part in text


def test_which_file_wins(toml, tmp_path, monkeypatch):
    default = toml()
    other = tmp_path / "other.toml"
    other.write_text("[model]\ntrust_remote_code = true\n")
    chosen = of(examine(config=other), "configuration")
    assert [finding.level for finding in chosen] == [Level.OK, Level.NOTE, Level.NOTE]
    assert str(other) in chosen[0].what
    assert f"{default} exists and does not count" in chosen[1].what
    assert "trust_remote_code" in chosen[2].what
    monkeypatch.setenv("PENSIEVED_CONFIG", str(other))
    assert "$PENSIEVED_CONFIG" in of(examine(), "configuration")[0].why
    missing = of(examine(config=tmp_path / "missing.toml"), "configuration")
    assert "No such file" in missing[0].what


def test_keys_that_others_can_read(toml, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("very-secret-key\n")
    keys.chmod(0o644)
    toml(f'host = "0.0.0.0"\napi_keys_file = "{keys}"\n')
    found = only(examine(), "access")
    assert (found.level, found.todo) == (Level.PROBLEM, f"Run: chmod 600 {keys}")
    keys.chmod(0o600)
    assert only(examine(), "access").level is Level.NOTE
    toml('host = "0.0.0.0"\n')
    assert "no API key is configured" in only(examine(), "access").what


def test_the_port_is_somebody_elses(toml, home):
    with FakeStatus() as stranger:
        stranger.status = {"some": "other service"}
        default_config_file().write_text(f"[server]\nport = {stranger.port}\n")
        found = only(examine(), "daemon")
    assert found.level is Level.PROBLEM
    assert f"(pid {os.getpid()})" in found.what


def test_a_daemon_that_answers(toml, home):
    with FakeStatus(phase="ready", version=__version__) as daemon:
        daemon.ready = True
        default_config_file().write_text(f"[server]\nport = {daemon.port}\n")
        found = examine()
        assert only(found, "daemon").level is Level.OK
        assert [finding.level for finding in of(found, "versions")] == [Level.OK]
        daemon.status |= {"phase": "failed", "error": "Gated.", "hint": "Ask.", "version": "0.0.1"}
        found = examine()
        failed = only(found, "daemon")
        assert (failed.level, failed.why, failed.todo) == (Level.PROBLEM, "Gated.", "Ask.")
        assert of(found, "versions")[1].level is Level.WARNING
        daemon.ready, daemon.status = False, daemon.status | {"phase": "downloading"}
        assert only(examine(), "daemon").level is Level.NOTE


def test_damage_in_the_cache(toml, cache):
    mine, other = put(cache, URL), put(cache, "another/one")
    mine.write_bytes(b"short")
    found = only(examine(), "cache")
    assert found.level is Level.PROBLEM
    assert "weights" in found.what
    put(cache, URL)
    os.utime(other, (1, 1))
    found = of(examine(), "cache")
    assert found[0].level is Level.WARNING
    assert key_of("another/one", cache) in found[0].what
    (other.parent / "manifest.toml").write_text("[[[")
    assert "manifest.toml" in of(examine(), "cache")[0].what


def test_what_interrupted_preparations_left(toml, cache):
    (cache.new_staging(key_of(URL, cache)) / "part").write_bytes(b"x" * 2048)
    tidy, left = of(examine(), "cache")
    assert (tidy.level, left.level) == (Level.OK, Level.NOTE)
    assert "1 unfinished or superseded folders take 2.0 KiB" in left.what


def test_a_cache_that_is_none(toml, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert "is no folder" in only(examine(), "cache").what
    (tmp_path / "cache").unlink()
    assert only(examine(), "cache").level is Level.OK


def test_a_full_disk(toml, monkeypatch):
    usage = shutil.disk_usage("/")
    for free, level in ((2**20, Level.PROBLEM), (2**31, Level.WARNING), (2**40, Level.OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert only(examine(), "disk").level is level


def test_secrets_are_not_shown(toml, home, monkeypatch):
    secrets = ("hf_abcdefghijklmnop", "proxy-password", "key-of-mine", "stored-token")
    monkeypatch.setenv("HF_TOKEN", secrets[0])
    monkeypatch.setenv("https_proxy", f"http://me:{secrets[1]}@proxy.example:3128")
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{secrets[1]}@hub.example")
    monkeypatch.setenv("PENSIEVED_SERVER__API_KEYS", secrets[2])
    monkeypatch.setenv("PENSIEVED_GENERATION__TOP_K", "7")
    found = examine()
    text = "\n".join(map(plain, found)) + repr(look_around(DEFAULT_LABEL, None))
    assert not [secret for secret in secrets if secret in text]
    for part in (
        "https_proxy=http://…@proxy.example:3128",
        "https://…@hub.example",
        "in $HF_TOKEN",
        "PENSIEVED_GENERATION__TOP_K is '7'",
    ):
        assert part in text
    monkeypatch.delenv("HF_TOKEN")
    file = home / ".cache" / "huggingface" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(secrets[3])
    found = only(examine(), "token")
    assert (found.level, str(file) in found.what) == (Level.OK, True)
    assert secrets[3] not in plain(found)


def test_an_environment_that_changes_things(toml, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", "/nowhere/hf")
    monkeypatch.setenv("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
    levels = {finding.what: finding.level for finding in of(examine(), "environment")}
    assert levels == {
        "The Hub's files are in /nowhere/hf ($HF_HOME), which is not there yet.": Level.NOTE,
        "Nothing is fetched from the Hub ($HF_HUB_OFFLINE).": Level.PROBLEM,
        "PATH is launchd's bare one.": Level.NOTE,
    }
    put(cache, URL)
    assert report(examine()).ok


def test_folders_that_macos_guards(toml, home, monkeypatch):
    assert not of(examine(), "folders") or sys.platform == "darwin"
    monkeypatch.setattr(configuration, "MACOS", True)
    assert only(examine(), "folders").level is Level.OK
    model = home / "Downloads" / "my-model"
    model.mkdir(parents=True)
    text = toml(f'[logging]\nfile = "{home}/Desktop/pensieved.log"\n').read_text()
    toml().write_text(text.replace(URL, str(model)))
    assert {finding.level for finding in of(examine(), "folders")} == {Level.WARNING}
    assert len(of(examine(), "folders")) == 2


def test_a_model_that_cannot_be_meant(toml):
    path = toml()
    path.write_text(path.read_text().replace(URL, "./not-there"))
    assert only(examine(), "model").level is Level.PROBLEM


def test_no_network_is_asked(toml, monkeypatch):
    met = []
    connect = socket.socket.connect

    def watched(self, address):
        met.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    examine()
    assert met
    assert {address[0] for address in met} <= {"127.0.0.1"}


def test_a_check_that_breaks_is_a_problem_and_not_the_end(toml, monkeypatch):
    def broken(_scene):
        yield Finding("system", Level.OK, "So far so good.")
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(run.CHECKS, "system", broken)
    first, second, *others = examine()
    assert first.level is Level.OK
    assert "ZeroDivisionError('a bug')" in second.what
    assert len(others) > 5


def test_on_a_terminal(toml):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pensieved", "doctor", "--no-speed"]
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = b""
            while chunk := _read(screen):
                shown += chunk
        assert process.returncode == 0
    assert "✓ configuration" in shown.decode()
    assert "All is well." in shown.decode()


def _read(screen):
    try:
        return screen.read(65536)
    except OSError:  # Linux' way to say that the other end is closed
        return b""


FIGURES = Figures(
    device="gpu",
    mlx="0",
    mlx_lm="0",
    blas="",
    host_bandwidth=60e9,
    device_bandwidth=80e9,
    weight_bytes=400_000_000,
    tokens_per_second=150.0,
    flops=1e12,
)


@pytest.mark.parametrize(
    ("changes", "chip", "level"),
    [
        ({}, "Apple M2", Level.OK),
        ({"device_bandwidth": 45e9}, "Apple M2", Level.WARNING),
        ({"tokens_per_second": 80.0}, "Apple M2", Level.WARNING),
        ({}, "Apple M2 Max", Level.WARNING),
        ({}, "Apple M99", Level.OK),
        ({"device": "cpu", "tokens_per_second": 60.0}, "AMD EPYC", Level.OK),
        ({"device": "cpu", "tokens_per_second": 20.0}, "AMD EPYC", Level.WARNING),
    ],
)
def test_speed_is_judged_by_what_the_memory_gives(changes, chip, level):
    judged = speed.judge(msgspec.structs.replace(FIGURES, **changes), chip, disturbed=True)
    assert judged.level is level
    assert ("A daemon runs here" in judged.why) == (level is Level.WARNING)


def test_nothing_is_measured_where_memory_is_short(toml, monkeypatch):
    monkeypatch.setattr(speed, "NEEDED", 2**60)
    (found,) = speed.speed(look_around(DEFAULT_LABEL, None))
    assert (found.level, "Not measured" in found.what) == (Level.NOTE, True)


@pytest.mark.slow
def test_the_real_speed(toml, cache):
    shown = json.loads(expect(0, "doctor", "--json").stdout)
    measured = {finding["check"]: finding for finding in shown["findings"]}
    assert measured["speed"]["level"] in {"ok", "warning"}
    assert "tokens/s" in measured["speed"]["what"]
    toml('[engine]\ndevice = "gpu"\n')
    if sys.platform == "linux" and not Path("/dev/nvidia0").exists():
        assert "MLX finds no GPU here" in expect(1, "doctor").stdout
