from __future__ import annotations

import os
import stat
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieved.errors import ConfigError
from pensieved.settings.edit import changed_text, read_text, write_text
from pensieved.settings.load import settings_from

CHANGES = {"model.url": "org/name", "server.port": 9000}

COMMENTED = """\
# mine
[model]     # what
url   = 'a/b'   # why this one
aliases = [
  "x",  # one
  "y",
]

# about the server
[server]
host = "127.0.0.1"
"""


def test_only_those_keys_change_and_every_comment_stays():
    assert changed_text(COMMENTED, CHANGES) == COMMENTED.replace("'a/b'", '"org/name"').replace(
        "[server]\n", "[server]\nport = 9000\n"
    )


def test_a_new_key_stands_below_its_heading_not_behind_the_next_ones_comment():
    assert changed_text("[model]\n# end\n\n# about\n[server]\nport = 9000\n", CHANGES) == (
        '[model]\nurl = "org/name"\n# end\n\n# about\n[server]\nport = 9000\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        COMMENTED,
        'model.url = "a"\n',
        'model = { url = "a" }\n',
        "[server]\r\nport = 1 # p\r\n",
        "[generation]\ntop_k = 3 # no newline at the end",
        "x = '''\n[model]\n'''\n[model]\n",
        '[model]\nurl = "org/name"\n[server]\nport = 9000\n',
        '["model"]\n"url" = "a"\n',
    ],
)
def test_any_spelling_of_the_same(text):
    changed = changed_text(text, CHANGES)
    found = tomllib.loads(changed)
    assert (found["model"]["url"], found["server"]["port"]) == ("org/name", 9000)
    assert changed_text(changed, CHANGES) == changed
    assert ("\r\n" in text) == ("\r\n" in changed)
    assert "\n" not in changed.replace("\r\n", "") or "\r\n" not in text


@given(
    url=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
    port=st.integers(0, 65535),
    comment=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30),
)
def test_whatever_the_value_the_rest_stays(url, port, comment):
    text = f"# {comment}\n[model]\nurl = 'x' # {comment}\n\n[cache]\nverify = 'full' # {comment}\n"
    changed = changed_text(text, {"model.url": url, "server.port": port})
    assert tomllib.loads(changed) == {
        "model": {"url": url},
        "cache": {"verify": "full"},
        "server": {"port": port},
    }
    assert changed.startswith(f"# {comment}\n[model]\nurl = ")
    assert f"[cache]\nverify = 'full' # {comment}\n" in changed


def test_a_new_file_is_the_commented_example_with_the_keys_active(tmp_path):
    text = changed_text("", CHANGES)
    assert text.count("\nurl = ") == 1
    assert "# revision = " in text
    settings = settings_from(text, tmp_path / "x.toml")
    assert (settings.model.url, settings.server.port) == ("org/name", 9000)


@pytest.mark.parametrize("text", ["[model", "model = 5\n", "port = = 3"])
def test_what_cannot_be_edited_is_refused(text):
    with pytest.raises(ConfigError):
        changed_text(text, CHANGES)


def test_writing_keeps_the_mode_and_the_link(tmp_path):
    real = tmp_path / "dotfiles" / "real.toml"
    real.parent.mkdir()
    real.write_text("")
    real.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(real)
    write_text(link, "a = 1\r\n")
    assert link.is_symlink()
    assert real.read_bytes() == b"a = 1\r\n"
    assert read_text(link) == "a = 1\r\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert list(real.parent.iterdir()) == [real]


def test_a_new_file_is_private(tmp_path):
    write_text(tmp_path / "deep" / "new.toml", "")
    assert stat.S_IMODE((tmp_path / "deep" / "new.toml").stat().st_mode) == 0o600
    assert read_text(tmp_path / "none.toml") == ""


def test_what_cannot_be_written_or_read_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_text(tmp_path / "file" / "x.toml", "")
    (tmp_path / "binary").write_bytes(os.urandom(8) + b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_text(tmp_path / "binary")


def test_empty_means_unset_as_the_example_shows(tmp_path):
    settings = settings_from('[model]\nrevision = ""\n[logging]\nfile = ""\n', tmp_path / "x.toml")
    assert settings.model.revision is None
    assert settings.logging.file is None
