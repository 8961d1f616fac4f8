from __future__ import annotations

import io
import json
import logging
import sys
import threading

import pytest
import structlog

from pensieved.logfile import LogFile, RotatingStream, trim_output
from pensieved.logs import configure_logging
from pensieved.settings.load import settings_from
from pensieved.settings.paths import launchd_label


@pytest.fixture
def stream(tmp_path):
    made = []

    def make(**keys):
        made.append(RotatingStream(LogFile(tmp_path / "deep" / "x.log", **keys)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def fresh_logging():
    """structlog and the root logger as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if isinstance(getattr(handler, "stream", None), RotatingStream):
            handler.stream.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def files(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "deep").iterdir()}


def test_a_full_file_becomes_the_first_of_the_old_ones(tmp_path, stream):
    log = stream(max_size=10, keep=2)
    for number in range(5):
        log.write(f"line {number}\n")
    assert files(tmp_path) == {"x.log": "line 4\n", "x.log.1": "line 3\n", "x.log.2": "line 2\n"}


def test_a_line_longer_than_the_limit_is_written_whole(tmp_path, stream):
    log = stream(max_size=3, keep=1)
    log.write("a long line\n")
    assert files(tmp_path) == {"x.log": "a long line\n"}


def test_nothing_old_is_kept_where_none_is_wanted_and_0_means_no_limit(tmp_path, stream):
    log = stream(max_size=3, keep=0)
    log.write("one\n")
    log.write("two\n")
    assert files(tmp_path) == {"x.log": "two\n"}
    endless = stream(max_size=0)
    endless.write("three\n")
    assert files(tmp_path) == {"x.log": "two\nthree\n"}


@pytest.mark.parametrize("act", ["unlink", "rename"])
def test_a_file_that_was_taken_away_is_begun_anew(tmp_path, stream, act):
    log = stream()
    log.write("one\n")
    path = tmp_path / "deep" / "x.log"
    path.unlink() if act == "unlink" else path.rename(tmp_path / "moved")
    log.write("two\n")
    assert path.read_text() == "two\n"


def test_threads_do_not_mix_lines_and_lose_none(tmp_path, stream):
    log = stream(max_size=5000, keep=100)
    threads = [
        threading.Thread(target=lambda n=n: [log.write(f"{n} {'x' * 50} {i}\n") for i in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line for text in files(tmp_path).values() for line in text.splitlines()]
    assert sorted(lines) == sorted(f"{n} {'x' * 50} {i}" for n in range(4) for i in range(100))
    assert len(files(tmp_path)) > 3


def test_with_a_file_the_log_goes_there_as_json_and_not_to_stderr(tmp_path, monkeypatch, fresh_logging):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure_logging("info", "auto", LogFile(tmp_path / "x.log"))
    structlog.get_logger().info("ready", model="größe")
    logging.getLogger("library").warning("careful %s", "now")
    entries = [json.loads(line) for line in (tmp_path / "x.log").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == ["ready", "careful now"]
    assert entries[0]["model"] == "größe"
    assert {"timestamp", "level"} <= set(entries[0])
    assert sys.stderr.getvalue() == ""


def test_with_a_terminal_too_both_get_it(tmp_path, monkeypatch, fresh_logging):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging("info", "auto", LogFile(tmp_path / "x.log"))
    try:
        int("x")
    except ValueError:
        structlog.get_logger().exception("broken")
    assert json.loads((tmp_path / "x.log").read_text())["exception"].endswith("base 10: 'x'")
    assert "broken" in terminal.getvalue()
    assert "ValueError" in terminal.getvalue()


def test_a_log_that_cannot_be_written_fails_nobody(tmp_path, monkeypatch, fresh_logging):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure_logging("info", "auto", LogFile(tmp_path / "file" / "x.log"))
    structlog.get_logger().info("lost")
    configure_logging("info", "json")
    sys.stderr.close()
    structlog.get_logger().info("lost")


def test_launchds_own_file_is_emptied_when_it_has_grown(tmp_path):
    path = tmp_path / "out"
    path.write_text("x" * 100)
    with path.open("a") as small:
        trim_output(small)
    assert path.stat().st_size == 100
    path.write_text("x" * 2 * 1024**2)
    with path.open("a") as large:
        trim_output(large)
        large.write("after")
    assert path.read_text() == "after"
    trim_output(io.StringIO())


def test_under_launchd_the_log_has_a_file_by_default(tmp_path, monkeypatch):
    settings = settings_from("", tmp_path / "x.toml").logging
    monkeypatch.setenv("PENSIEVED_LABEL", "org.example.x")
    monkeypatch.setenv("XPC_SERVICE_NAME", "application.com.apple.Terminal.1")
    assert launchd_label() is None
    assert settings.destination(launchd_label()) is None
    monkeypatch.setenv("XPC_SERVICE_NAME", "org.example.x")
    assert settings.destination(launchd_label()).path.name == "org.example.x.log"
    named = settings_from(
        f'[logging]\nfile = "{tmp_path}/mine.log"\nmax_size = "1MiB"\nkeep = 2\n', tmp_path / "x.toml"
    )
    assert named.logging.destination("any") == LogFile(tmp_path / "mine.log", 1024**2, 2)
