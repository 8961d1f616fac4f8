from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import expect


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in [name for name in os.environ if name.startswith(("XDG_", "PENSIEVED_"))]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def toml(home):
    path = home / ".config" / "pensieved" / "pensieved.toml"
    if sys.platform == "darwin":
        path = home / "Library" / "Application Support" / "pensieved" / "pensieved.toml"
    path.parent.mkdir(parents=True)
    path.write_text('# mine\n[server]\nport = 9000\n[cache]\ndir = "~/models"\n')
    return path


def test_show_says_where_each_value_comes_from(toml, home):
    shown = json.loads(expect(0, "config", "show", "--json", PENSIEVED_SERVER__MAX_QUEUED="3").stdout)
    assert shown["server.port"] == {"value": 9000, "from": f"{toml}:3"}
    assert shown["server.max_queued"] == {"value": 3, "from": "PENSIEVED_SERVER__MAX_QUEUED"}
    assert shown["server.host"] == {"value": "127.0.0.1", "from": "default"}
    assert shown["server.max_body"]["value"] == "32MiB"
    assert shown["cache.dir"]["value"] == str(home / "models")
    lines = expect(0, "config", "show").stdout.splitlines()
    assert any(line.startswith("server.port = 9000 ") and line.endswith(f"# {toml}:3") for line in lines)


def test_secrets_are_not_shown(toml):
    toml.write_text('[server]\napi_keys = ["very-secret-key"]\n')
    toml.chmod(0o600)
    shown = expect(0, "config", "show").stdout
    assert "very-secret-key" not in shown
    assert 'server.api_keys = "(set, not shown)"' in shown


def test_path_validate_and_schema(toml, home):
    assert expect(0, "config", "path").stdout.strip() == str(toml)
    assert expect(0, "config", "path", "--config", "/x/y.toml").stdout.strip() == "/x/y.toml"
    assert (
        str(toml.with_name("org.example.x.toml"))
        in expect(0, "config", "path", "--label", "org.example.x").stdout
    )
    assert "is valid" in expect(0, "config", "validate").stdout
    other = home / "other.toml"
    other.write_text("[server]\nprot = 1\nport = 'x'\n")
    wrong = expect(2, "config", "validate", other)
    assert f"{other}:2: server.prot" in wrong.stderr
    assert "'port'" in wrong.stderr
    assert f"{other}:3: server.port" in wrong.stderr
    assert json.loads(expect(0, "config", "schema").stdout)["title"] == "pensieved configuration"


def test_without_a_file_there_are_the_defaults(home):
    assert "defaults are valid" in expect(0, "config", "validate").stdout
    assert json.loads(expect(0, "config", "show", "--json").stdout)["server.port"]["from"] == "default"
    assert expect(0, "config", "path").stdout.strip().endswith("pensieved.toml")


@pytest.fixture
def editor(tmp_path):
    """An editor that replaces a pattern; each of several replacements is for one call."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import re, sys\nfrom pathlib import Path\n"
        "pattern, *replacements, name = sys.argv[1:]\n"
        "calls = Path(__file__ + '.calls')\n"
        "number = len(calls.read_text()) if calls.exists() else 0\n"
        "calls.write_text('x' * (number + 1))\n"
        "text = Path(name).read_text()\n"
        "Path(name).write_text(re.sub(pattern, replacements[number % len(replacements)], text))\n"
    )

    def command(pattern, *replacements):
        return shlex.join([sys.executable, str(script), pattern, *replacements])

    return command


def test_edit_replaces_the_file_only_by_a_valid_one(toml, editor):
    before = toml.read_text()
    bad = expect(2, "config", "edit", EDITOR=editor("9000", "99999"), VISUAL="")
    assert f"{toml}:3: server.port" in bad.stderr
    assert toml.read_text() == before
    assert "Nothing changed" in expect(0, "config", "edit", EDITOR="true", VISUAL="").stdout
    assert "nothing is changed" in expect(1, "config", "edit", EDITOR="false", VISUAL="").stderr
    assert "cannot be run" in expect(2, "config", "edit", EDITOR="/no/such/editor", VISUAL="").stderr
    expect(0, "config", "edit", VISUAL=editor("9000", "9001"))
    assert toml.read_text() == before.replace("9000", "9001")


def test_edit_offers_a_second_try_on_a_terminal(toml, editor):
    master, slave = pty.openpty()
    try:
        os.write(master, b"y\n")
        done = subprocess.run(
            [sys.executable, "-m", "pensieved", "config", "edit"], stdin=slave, capture_output=True, text=True,
            timeout=60, check=False, env={**os.environ, "VISUAL": editor("port = .*", "port = 70000", "port = 9002")},
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 0, done.stderr
    assert "server.port" in done.stderr
    assert "port = 9002" in toml.read_text()


def test_edit_begins_with_the_example(home, editor):
    expect(0, "config", "edit", VISUAL=editor("(?m)^# port = .*", "port = 1234"))
    assert "\nport = 1234\n" in Path(expect(0, "config", "path").stdout.strip()).read_text()
