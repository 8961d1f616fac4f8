from __future__ import annotations

import pytest

from pensieved.errors import ServiceError
from pensieved.service.exitcodes import MEANINGS, explain
from pensieved.service.launchctl import Job, Launchctl, parse_disabled, parse_job

TWO_BLOCKS = """
\tdisabled services = {
\t\t"a" => disabled
\t\t"b" => enabled
\t}

\tlogin item associations = {
\t\t"b" => disabled
\t}
"""

PRINTED = """\
gui/501/org.example.x = {
\tactive count = 1
\tpath = /Users/me/Library/LaunchAgents/org.example.x.plist
\ttype = LaunchAgent
\tstate = running

\tprogram = /opt/venv/bin/python
\targuments = {
\t\t/opt/venv/bin/python
\t\tpid = 5
\t}

\tdefault environment = {
\t\tPATH => /usr/bin:/bin:/usr/sbin:/sbin
\t}

\tdomain = gui/501 [100005]
\tminimum runtime = 10
\truns = 3
\tpid = 4242
\timmediate reason = crash
\tlast terminating signal = Killed: 9

\tresource coalition = {
\t\tID = 1234
\t\tstate = active
\t}
}
"""


def test_only_lines_with_one_tab_are_read():
    job = parse_job("gui/501", PRINTED)
    assert job == Job("gui/501", state="running", pid=4242, runs=3, last_exit="signal Killed: 9")


@pytest.mark.parametrize(
    ("line", "last_exit"),
    [
        ("\tlast exit code = 0", "code 0"),
        ("\tlast exit code = 78: EX_CONFIG", "code 78: EX_CONFIG"),
        ("\tlast exit code = (never exited)", None),
        ("", None),
    ],
)
def test_the_last_end(line, last_exit):
    assert parse_job("gui/501", f"x = {{\n\tstate = not running\n{line}\n}}\n").last_exit == last_exit


def test_what_cannot_be_read_is_unknown():
    assert parse_job("gui/501", "a format of the future\n\tpid = soon\n") == Job("gui/501")


def test_a_job_that_was_told_to_end():
    assert parse_job("gui/501", "x = {\n\tstate = SIGTERMed\n}\n").ending
    assert not Job("gui/501").ending


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        (
            TWO_BLOCKS,
            {"a": True, "b": False},
        ),
        ('disabled services = {\n\t"a" => true\n\t"b" => false\n}\n', {"a": True, "b": False}),
        ("disabled services = (no disabled services)\n", {}),
        ("", {}),
    ],
)
def test_print_disabled(printed, found):
    assert parse_disabled(printed) == found


def test_every_code_of_the_table_has_a_sentence_and_a_next_step():
    for code in (3, 5, 36, 37, 64, 109, 110, 111, 112, 113, 119, 122, 124, 125, 133, 134):
        assert MEANINGS[code].what.endswith((".", "!"))
        assert MEANINGS[code].hint


def test_an_unknown_code_keeps_launchctls_own_words():
    assert "code 42: It is\tMonday".replace("\t", " ") in explain(42, "It is\nMonday\n").what


def script(tmp_path, text):
    path = tmp_path / "launchctl"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_output_and_code_are_captured(tmp_path):
    outcome = Launchctl(script(tmp_path, 'echo "$@"; echo why >&2; exit 5')).run("bootstrap", "gui/501", "/x")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (5, "bootstrap gui/501 /x\n", "why\n")
    assert "input/output error" in outcome.error().what
    assert not outcome.ok


def test_a_launchctl_that_hangs_is_given_up(tmp_path):
    with pytest.raises(ServiceError, match="did not answer"):
        Launchctl(script(tmp_path, "exec sleep 60"), timeout=0.3).run("print", "gui/501")


def test_without_launchctl(tmp_path):
    missing = Launchctl(str(tmp_path / "none"))
    assert not missing.exists
    with pytest.raises(ServiceError, match="cannot be run") as caught:
        missing.run("print")
    assert "pensieved run" in caught.value.hint


def test_the_path_comes_from_the_environment_else_it_is_bin(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSIEVED_LAUNCHCTL", script(tmp_path, "exit 7"))
    assert Launchctl().run("print").code == 7
    monkeypatch.delenv("PENSIEVED_LAUNCHCTL")
    assert Launchctl()._path == "/bin/launchctl"


def test_loaded_or_not_comes_from_the_exit_code_alone(tmp_path):
    assert Launchctl(script(tmp_path, "exit 113")).job("gui/501", "x") is None
    assert Launchctl(script(tmp_path, "echo nonsense")).job("gui/501", "x") == Job("gui/501")
    with pytest.raises(ServiceError, match="code 1"):
        Launchctl(script(tmp_path, "exit 1")).job("gui/501", "x")
