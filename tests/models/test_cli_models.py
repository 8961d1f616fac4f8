"""`pensieved models` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pensieved.cli.models import app
from pensieved.errors import PermanentError, UsageError
from support import tiny

pytestmark = pytest.mark.slow  # each prepares in a process of its own

REPO = "tiny/llama"


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSIEVED_CACHE__DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PENSIEVED_ENGINE__DEVICE", "cpu")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def folder(tmp_path):
    return tiny.write_files(tmp_path / "mine", tiny.llama_files())


def test_nothing_there(cli):
    assert "No models in" in cli("list")
    assert json.loads(cli("list", "--json")) == []
    assert "Nothing to remove." in cli("prune")
    assert cli("verify") == ""
    with pytest.raises(UsageError, match="no model 'x'"):
        cli("remove", "x")


def test_pull_list_verify_remove(cli, hub):
    sha = hub.commit(REPO, tiny.llama_files(dtype="float16"))
    assert f"{REPO} is ready: 4bit" in cli("pull", REPO, "--quantization", "4bit")
    (row,) = json.loads(cli("list", "--json"))
    assert (row["name"], row["commit"], row["effective_quantization"], row["state"]) == (
        REPO,
        sha,
        "4bit",
        "ready",
    )
    listed = cli("list")
    assert REPO in listed
    assert sha[:7] in listed
    assert sha[:8] not in listed
    assert f"{row['key']}: ok" in cli("verify", REPO)
    weights = Path(row["path"]) / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(2000)
        file.write(b"damage")
    assert f"{row['key']}: damaged: model.safetensors" in cli("verify", code=1)
    assert "damaged" in cli("list")
    cli("pull", REPO, "--quantization", "4bit")
    assert f"{row['key']}: ok" in cli("verify")
    assert "stays in the Hub cache" in cli("remove", REPO)
    assert json.loads(cli("list", "--json")) == []


def test_pull_says_that_the_branch_moved(cli, hub):
    old = hub.commit(REPO, tiny.llama_files(seed=1))
    cli("pull", REPO)
    new = hub.commit(REPO, tiny.llama_files(seed=2))
    assert f"main moved {old[:7]} → {new[:7]}" in cli("pull", REPO)


def test_prune_keeps_the_configured_model(cli, hub, folder, monkeypatch):
    hub.commit(REPO, tiny.llama_files())
    cli("pull", REPO)
    cli("pull", str(folder))
    monkeypatch.setenv("PENSIEVED_MODEL__URL", REPO)
    assert "would remove mine-auto" in cli("prune", "--dry-run")
    assert len(json.loads(cli("list", "--json"))) == 2
    assert "removed mine-auto" in cli("prune")
    assert [row["name"] for row in json.loads(cli("list", "--json"))] == [REPO]


def test_a_model_that_is_prepared_twice_is_named_by_its_key(cli, folder):
    cli("pull", str(folder))
    cli("pull", str(folder), "--quantization", "8bit")
    with pytest.raises(UsageError, match="prepared more than once") as caught:
        cli("remove", "mine")
    key = caught.value.hint.split()[2].rstrip(",.")
    cli("remove", key)
    assert len(json.loads(cli("list", "--json"))) == 1


def test_a_model_in_use_is_not_removed(cli, folder, preparing):
    prepared = preparing(str(folder))
    with pytest.raises(PermanentError, match="in use"):
        cli("remove", "mine")
    prepared.lease.release()
    cli("remove", "mine")


def test_a_malformed_url(cli):
    with pytest.raises(UsageError, match="does not name a model"):
        cli("pull", "nonsense")
