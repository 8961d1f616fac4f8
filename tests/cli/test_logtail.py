from __future__ import annotations

import threading

import pytest

from pensieved.cli.logtail import follow, last_lines, readable, since
from pensieved.logfile import LogFile, RotatingStream
from support.daemon import wait_for


def test_last_lines_reach_back_into_rotated_files(tmp_path):
    file = LogFile(tmp_path / "x.log")
    assert last_lines(file, 5) == []
    (tmp_path / "x.log.2").write_text("1\n2\n")
    (tmp_path / "x.log.1").write_text("3\n4\n")
    (tmp_path / "x.log").write_text("5\n")
    assert last_lines(file, 1) == ["5"]
    assert last_lines(file, 4) == ["2", "3", "4", "5"]
    assert last_lines(file, 99) == ["1", "2", "3", "4", "5"]
    assert last_lines(file, 0) == []


def test_since_gives_what_was_added_also_to_a_file_begun_anew(tmp_path):
    path = tmp_path / "x.log"
    assert since(path, 0, 5) == []
    path.write_text("old\nnew\nnewer\n")
    assert since(path, 4, 5) == ["new", "newer"]
    assert since(path, 4, 1) == ["newer"]
    assert since(path, 1000, 5) == ["old", "new", "newer"]


@pytest.mark.slow
def test_follow_goes_on_through_rotations(tmp_path):
    log = RotatingStream(LogFile(tmp_path / "x.log", max_size=100, keep=50))
    seen, lines = [], follow(tmp_path / "x.log", 0)

    def read():
        for line in lines:
            seen.append(line)
            if line == "end":
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for number in range(30):
        log.write(f"line {number:03}\n")
        wait_for(lambda n=number: len(seen) > n, 60, f"line {number}")
    log.write("end\n")
    reader.join(60)
    lines.close()
    log.close()
    assert seen == [f"line {number:03}" for number in range(30)] + ["end"]


def test_follow_waits_for_the_rest_of_a_line(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("whole\nha")
    lines = follow(path, 0)
    assert next(lines) == "whole"
    with path.open("a") as file:
        file.write("lf\n")
    assert next(lines) == "half"
    lines.close()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ('{"no": "event"}', '{"no": "event"}'),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_what_is_no_entry_is_shown_as_it_is(line, shown):
    assert readable(line) == shown


def test_an_entry_reads_like_a_sentence():
    line = '{"event": "ready", "level": "info", "timestamp": "2020-01-02T03:04:05Z", "model": "x", "why": "a b", "n": 3}'
    assert readable(line).endswith('info    ready  model=x  why="a b"  n=3')
    assert readable(line).startswith("2020-01-0")
    broken = '{"event": "broken", "level": "error", "timestamp": "?", "exception": "Traceback\\nValueError"}'
    assert readable(broken) == "? error   broken\nTraceback\nValueError"
