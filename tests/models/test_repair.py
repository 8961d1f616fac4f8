"""Damage in any file is found before it is served, and only the damaged file is repaired."""

from __future__ import annotations

import os
import shutil

import pytest

from pensieved.errors import IntegrityError
from support import tiny

pytestmark = pytest.mark.slow  # each prepares in a process of its own

REPO = "tiny/llama"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def flip(path, at=None):
    """Flip a bit and leave the time as it was: only a hash can see it."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.resolve().write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def identities(folder):
    """What tells a replaced file from an untouched one."""
    return {
        p.name: (p.resolve().stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.iterdir()
        if p.suffix != ".toml"
    }


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".toml"}


@pytest.mark.parametrize("name", FILES)
def test_linked_files_are_fetched_again_alone(hub, preparing, name):
    hub.commit(REPO, tiny.llama_files())
    model = preparing(REPO, quantization="none")
    whole, before = contents(model.path), identities(model.path)
    asked = len(hub.requests)
    flip(model.path / name)
    assert preparing.find(REPO, quantization="none", verify="full") is None
    repaired = preparing(REPO, quantization="none", verify="full")
    assert repaired.path == model.path
    assert contents(model.path) == whole
    assert {n for n, identity in identities(model.path).items() if identity != before[n]} == {name}
    fetched = {r.path.rsplit("/", 1)[1] for r in hub.requests[asked:] if r.method == "GET"}
    assert fetched == {name}
    assert preparing.find(REPO, quantization="none", verify="full") is not None


@pytest.mark.parametrize("name", [*FILES, "model.safetensors.index.json"])
def test_converted_files_are_built_again_alone(hub, preparing, name):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    model = preparing(REPO, quantization="4bit")
    whole, before = contents(model.path), identities(model.path)
    asked = len(hub.requests)
    flip(model.path / name)
    assert preparing.find(REPO, quantization="4bit", verify="full") is None
    repaired = preparing(REPO, quantization="4bit", verify="full")
    assert repaired.path == model.path
    assert contents(model.path) == whole
    assert {n for n, identity in identities(model.path).items() if identity != before[n]} == {name}
    assert len(hub.requests) == asked  # the source lies in the Hub cache, intact
    assert preparing.find(REPO, quantization="4bit", verify="full") is not None


def test_a_bad_source_file_is_fetched_again_alone(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16", shards=2))
    model = preparing(REPO, quantization="4bit")
    whole = contents(model.path)
    source = next(preparing.cache.parent.glob("hf/**/model-00001-of-00002.safetensors"))
    flip(source.resolve())
    flip(model.path / "model.safetensors")
    asked = len(hub.requests)
    preparing(REPO, quantization="4bit", verify="full")
    assert contents(model.path) == whole
    assert {r.path.rsplit("/", 1)[1] for r in hub.requests[asked:] if r.method == "GET"} == {source.name}


def test_deleted_and_shortened_files_fail_the_quick_check(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    model = preparing(REPO)
    whole = contents(model.path)
    (model.path / "tokenizer.json").unlink()
    with (model.path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert preparing.find(REPO) is None
    preparing(REPO)
    assert contents(model.path) == whole


def test_a_new_time_alone_is_only_written_down(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    model = preparing(REPO)
    os.utime(model.path / "model.safetensors", (1, 1))
    assert preparing.find(REPO) is None
    assert preparing.find(REPO, verify="full") is not None
    inode = (model.path / "model.safetensors").stat().st_ino
    preparing(REPO)
    assert (model.path / "model.safetensors").stat().st_ino == inode
    assert preparing.find(REPO) is not None


@pytest.mark.parametrize("at", [0, 40, -3])
def test_a_damaged_manifest_means_a_new_preparation(hub, preparing, at):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    model = preparing(REPO)
    flip(model.path / "manifest.toml", at)
    assert preparing.find(REPO) is None
    assert preparing(REPO).manifest.commit == model.manifest.commit
    assert preparing.find(REPO, verify="full") is not None


def test_the_hub_cache_may_be_emptied(hub, preparing, tmp_path):
    hub.commit(REPO, tiny.llama_files())
    model = preparing(REPO, quantization="none")
    shutil.rmtree(tmp_path / "hf")
    assert preparing.find(REPO, quantization="none") is None
    assert preparing(REPO, quantization="none").path == model.path
    assert preparing.find(REPO, quantization="none", verify="full") is not None


def test_a_local_file_that_rots_is_said_and_not_served(preparing, tmp_path):
    folder = tiny.write_files(tmp_path / "model", tiny.llama_files())
    preparing(str(folder))
    flip(folder / "model.safetensors")
    assert preparing.find(str(folder), verify="full") is None
    with pytest.raises(IntegrityError, match="other bytes than when the model was prepared"):
        preparing(str(folder), verify="full")


def test_a_local_model_that_is_edited_is_prepared_anew(preparing, tmp_path):
    folder = tiny.write_files(tmp_path / "model", tiny.llama_files(seed=1))
    first = preparing(str(folder))
    tiny.write_files(folder, tiny.llama_files(seed=2))
    assert preparing.find(str(folder)) is None
    second = preparing(str(folder))
    assert preparing.said("model has changed")
    assert second.path != first.path
    os.utime(folder / "config.json", (1, 1))
    assert preparing.find(str(folder)) is None
    assert preparing(str(folder)).path == second.path
    assert preparing.said("model is up to date")
