"""Too little space is said beforehand, with both numbers, and survived when it comes as a surprise."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from pensieved.errors import DiskFullError, PermanentError
from pensieved.models.preparation import prepare
from pensieved.models.preparer import disk
from pensieved.models.progress import PrepareStage
from support import tiny

pytestmark = pytest.mark.slow  # each prepares in a process of its own

MIB = 1024**2


def test_the_error_has_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda _: 100 * MIB)
    disk.require_space({tmp_path / "not" / "there": 60 * MIB})
    with pytest.raises(DiskFullError, match=r"needs 102.0 MiB of disk below .*, and 100.0 MiB are free"):
        disk.require_space({tmp_path: 70 * MIB})
    disk.require_space({tmp_path: 0})


def test_folders_on_one_volume_share_its_space(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda _: 100 * MIB)
    with pytest.raises(DiskFullError, match=r"112.0 MiB"):
        disk.require_space({tmp_path / "a": 40 * MIB, tmp_path / "b": 40 * MIB})


@pytest.fixture
def small_disk(tmp_path, request):
    """A file system of its own, of so many MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("small_disk", [8], indirect=True)
def test_a_small_disk_is_noticed_before_the_download(hub, preparing, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(small_disk))
    hub.commit("tiny/llama", tiny.llama_files())
    with pytest.raises(DiskFullError, match=r"MiB are free"):
        preparing("tiny/llama")
    assert not hub.fetched("model.safetensors")


@pytest.mark.parametrize("small_disk", [64], indirect=True)
def test_a_disk_that_fills_up_during_the_download(hub, preparing, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(small_disk / "hf"))
    files = tiny.llama_files()
    hub.commit("tiny/llama", files)
    hub.faults.chunk_delay = 0.1  # time enough to fill it meanwhile, also on a busy machine

    def fill(progress):
        if (
            progress.stage is PrepareStage.DOWNLOADING
            and progress.done > 100_000
            and not (small_disk / "x").exists()
        ):
            with (small_disk / "x").open("wb", buffering=0) as file:
                while file.write(b"x" * MIB) == MIB:
                    pass

    with pytest.raises(DiskFullError):
        prepare(preparing.request("tiny/llama"), _surviving(fill), threading.Event())
    (small_disk / "x").unlink()
    hub.faults.chunk_delay = 0.0
    model = preparing("tiny/llama")
    assert hub.fetched("model.safetensors")[-1].range is not None
    assert (model.path / "model.safetensors").read_bytes() == files["model.safetensors"]


def _surviving(fill):
    """Our own write meets the full disk too."""

    def on_progress(progress):
        try:
            fill(progress)
        except OSError:
            return

    return on_progress


def test_a_cache_that_may_not_be_written_is_said(preparing, tmp_path):
    folder = tiny.write_files(tmp_path / "model", tiny.llama_files())
    preparing.cache.write_text("a file, where the cache should be")
    with pytest.raises(PermanentError, match="cannot be used") as caught:
        preparing(str(folder))
    assert "[cache] dir" in caught.value.hint
