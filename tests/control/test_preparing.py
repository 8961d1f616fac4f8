"""The wanted model, found or made."""

import os
import threading

import pytest

from pensieved.control.preparing import prepared_model
from pensieved.models.manifest import read_manifest
from pensieved.models.progress import PrepareStage
from pensieved.settings.load import load_settings
from support import tiny


@pytest.fixture
def prepared(tmp_path):
    """Prepares a folder's model under the given `cache.verify`; the model, and the stages that were told."""
    source = tiny.write_files(tmp_path / "source", tiny.llama_files(dtype="float16"))

    def prepare(verify):
        settings = load_settings(
            {
                "model": {"url": str(source), "quantization": "4bit"},
                "engine": {"device": "cpu"},
                "cache": {"dir": str(tmp_path / "cache"), "verify": verify},
            }
        )
        told = []
        model = prepared_model(settings, lambda _, progress: told.append(progress), threading.Event())
        model.lease.release()
        return model, told

    return prepare


@pytest.mark.slow
def test_reading_all_of_a_model_tells_how_far_it_is(prepared):
    made, _ = prepared("quick")
    found, told = prepared("full")
    assert found.path == made.path
    sizes = {progress.total for progress in told if progress.stage is PrepareStage.VERIFYING}
    assert sizes == {made.manifest.size}
    assert prepared("quick")[1] == []  # nothing to tell: it was not read again


@pytest.mark.slow
def test_what_only_its_bytes_betray_is_built_again(prepared):
    made, _ = prepared("quick")
    weights = made.path / "model.safetensors"
    good, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepared("quick")[0].path == made.path
    assert weights.read_bytes() != good
    found, _ = prepared("full")
    assert (found.path / "model.safetensors").read_bytes() == good
    assert read_manifest(found.path) is not None
