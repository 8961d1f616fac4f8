"""Reading the configuration again: from a real TOML, through the real watch."""

from __future__ import annotations

import pytest

from pensieved.control.reload import Configuration
from pensieved.control.watch import FileWatch
from pensieved.errors import UsageError
from pensieved.settings.effect import Effect
from pensieved.settings.origin import ConfigOrigin
from support.front import wait_until


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "pensieved.toml"
    path.write_text("[server]\nport = 8000\n[generation]\ntemperature = 0.5\n")
    return path


@pytest.fixture
def configuration(toml):
    origin = ConfigOrigin({}, toml)

    def check(settings):
        if settings.model.url == "forbidden":
            raise UsageError("It is forbidden.", hint="Ask for another.")

    made = Configuration(origin.load(), origin, check)
    made.heard = []
    made.subscribe(made.heard.append)
    return made


def told(report):
    return {change.key: change.effect for change in report.changes}


def test_a_live_key_is_in_force_at_once(configuration, toml):
    toml.write_text("[server]\nport = 8000\n[generation]\ntemperature = 0.1\n")
    report = configuration.reload()
    assert told(report) == {"generation.temperature": Effect.LIVE}
    assert report.changed_at == report.read_at
    assert configuration.current.generation.temperature == 0.1
    assert configuration.heard == [configuration.current]


def test_it_is_told_when_all_have_heard_of_it(configuration, toml):
    """Who waits for the report must not find the world as it was before."""
    seen = []
    configuration.subscribe(lambda _: seen.append(configuration.report.changes))
    toml.write_text("[generation]\ntemperature = 0.1\n")
    assert configuration.reload().changes
    assert seen == [()]


def test_a_key_that_needs_a_restart_waits_until_it_is_taken_back(configuration, toml):
    toml.write_text("[server]\nport = 9000\n[generation]\ntemperature = 0.5\n")
    report = configuration.reload()
    assert told(report) == {"server.port": Effect.RESTART}
    assert report.waiting == ("server.port",)
    assert configuration.current.server.port == 8000
    toml.write_text("[server]\nport = 9000\n[generation]\ntemperature = 0.2\n")
    report = configuration.reload()
    assert told(report) == {"generation.temperature": Effect.LIVE}
    assert report.waiting == ("server.port",)
    toml.write_text("[server]\nport = 8000\n[generation]\ntemperature = 0.2\n")
    assert configuration.reload().waiting == ()


def test_reading_the_same_again_changes_nothing_and_keeps_the_last_change(configuration, toml):
    toml.write_text("[generation]\ntemperature = 0.1\n")
    first = configuration.reload()
    again = configuration.reload()
    assert again.changes == first.changes
    assert again.changed_at == first.changed_at < again.read_at
    assert len(configuration.heard) == 2  # a failed model is tried again, keys are read again


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nport = 'x'\n", ("pensieved.toml:2", "server.port")),
        ("[server\n", ("pensieved.toml", "not TOML", "line 1")),
        ("[server]\nprot = 1\n", ("pensieved.toml:2", "prot", "'port'")),
        ("[model]\nurl = 'forbidden'\n", ("It is forbidden.",)),
    ],
)
def test_a_bad_edit_is_refused_and_the_last_good_configuration_stays(configuration, toml, text, words):
    toml.write_text(text)
    report = configuration.reload()
    assert all(word in report.error for word in words), report.error
    assert report.hint
    assert configuration.current.server.port == 8000
    assert configuration.heard == []
    toml.write_text("[server]\nport = 8000\nmax_queued = 1\n")
    mended = configuration.reload()
    assert mended.error is None
    assert configuration.current.server.max_queued == 1


def test_a_deleted_file_is_missed_and_not_taken_for_defaults(configuration, toml):
    toml.unlink()
    report = configuration.reload()
    assert "cannot be read" in report.error
    assert configuration.current.generation.temperature == 0.5


def test_a_default_file_that_comes_later_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    from pensieved.settings.paths import default_config_file  # noqa: PLC0415  after the environment is set

    origin = ConfigOrigin()
    configuration = Configuration(origin.load(), origin)
    assert origin.path is None
    assert origin.files(configuration.current) == (default_config_file(),)
    default_config_file().parent.mkdir(parents=True, exist_ok=True)
    default_config_file().write_text("[server]\nmax_queued = 2\n")
    assert told(configuration.reload()) == {"server.max_queued": Effect.LIVE}
    assert configuration.report.path == str(default_config_file())


def test_secrets_are_in_no_report(configuration, toml):
    toml.write_text('[server]\napi_keys = ["hidden-key"]\n')
    toml.chmod(0o600)
    report = configuration.reload()
    assert told(report)["server.api_keys"] is Effect.LIVE
    assert "hidden-key" not in repr(report)


def replace(path, text):
    """As editors do: write beside, then rename."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def link_elsewhere(path, text):
    """As those who keep their files in a repository do."""
    elsewhere = path.with_name("elsewhere.toml")
    elsewhere.write_text(text)
    path.unlink()
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("edit", [lambda path, text: path.write_text(text), replace, link_elsewhere])
def test_the_watch_notices_however_it_is_edited(configuration, toml, edit):
    origin = ConfigOrigin({}, toml)
    watch = FileWatch(lambda: origin.files(configuration.current), configuration.reload)
    watch.start()
    try:
        edit(toml, "[generation]\ntemperature = 0.25\n")
        wait_until(lambda: configuration.current.generation.temperature == 0.25)
        toml.write_text("[generation]\ntemperature = 0.75\n")
        wait_until(lambda: configuration.current.generation.temperature == 0.75)
    finally:
        watch.stop()


def test_the_watch_survives_what_its_listener_raises(tmp_path):
    path, calls = tmp_path / "late" / "file", []

    def listener():
        calls.append(path.read_text())
        raise RuntimeError("a bug")

    watch = FileWatch(lambda: [path], listener)
    watch.start()
    try:
        path.parent.mkdir()
        path.write_text("one")
        wait_until(lambda: calls == ["one"])
        path.write_text("two!")
        wait_until(lambda: calls == ["one", "two!"])
    finally:
        watch.stop()
