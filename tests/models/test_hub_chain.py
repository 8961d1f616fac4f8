"""The chain against a Hub: the happy ways, and what is fetched."""

from __future__ import annotations

import json
import platform

import pytest

from pensieved.errors import UnsupportedModelError
from pensieved.models.progress import PrepareStage
from support import tiny

pytestmark = pytest.mark.slow  # each prepares in a process of its own

REPO = "tiny/llama"
x86 = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="float32 is x86's precision")


def test_prepares_and_finds_again_without_the_hub(hub, preparing):
    sha = hub.commit(REPO, tiny.llama_files())
    model = preparing(REPO)
    assert model.manifest.commit == sha
    assert model.manifest.revision == "main"
    assert model.manifest.eos_token_ids == (2,)
    assert model.manifest.context_length == 512
    assert model.manifest.tokenizer.has_chat_template
    asked = len(hub.requests)
    found = preparing.find(REPO)
    assert found is not None
    assert found.path == model.path
    assert preparing.find(REPO, verify="full") is not None
    assert len(hub.requests) == asked


def test_fetches_only_what_is_needed(hub, preparing):
    files = tiny.llama_files() | {
        "pytorch_model.bin": b"x" * 5000,
        "onnx/model.onnx": b"x" * 5000,
        "model.fp16.safetensors": b"x" * 5000,
        "modeling_tiny.py": b"raise SystemExit",
    }
    hub.commit(REPO, files)
    model = preparing(REPO)
    fetched = {r.path.rsplit("/", 1)[1] for r in hub.requests if r.method == "GET" and "/api/" not in r.path}
    assert fetched == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert {f.path for f in model.manifest.files} == fetched


def test_a_model_that_needs_no_change_is_linked(hub, preparing, tmp_path):
    hub.commit(REPO, tiny.llama_files())
    model = preparing(REPO)
    weights = model.path / "model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve().is_relative_to(tmp_path / "hf")
    assert model.manifest.effective_quantization == "float32"


@x86
def test_shards_and_casting(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16", shards=3))
    model = preparing(REPO)
    assert model.manifest.effective_quantization == "float32"
    assert not (model.path / "model.safetensors").is_symlink()
    assert json.loads((model.path / "config.json").read_text())["torch_dtype"] == "float32"


def test_quantization_as_asked(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    model = preparing(REPO, quantization="4bit")
    assert model.manifest.effective_quantization == "4bit"
    assert json.loads((model.path / "config.json").read_text())["quantization"]["bits"] == 4
    kept = preparing(REPO, quantization="none")
    assert kept.manifest.effective_quantization == "float16"
    assert kept.path != model.path


@x86
def test_a_quantized_repository_is_dequantized_where_that_is_faster(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    quantized = preparing(REPO, quantization="8bit")
    hub.commit(
        "tiny/quantized", {p.name: p.read_bytes() for p in quantized.path.iterdir() if p.suffix != ".toml"}
    )
    kept = preparing("tiny/quantized", quantization="none")
    assert kept.manifest.effective_quantization == "8bit"
    assert (kept.path / "model.safetensors").is_symlink()
    assert "quantization" not in json.loads(
        (preparing("tiny/quantized", quantization="auto").path / "config.json").read_text()
    )


def test_progress_tells_stages_and_bytes(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    preparing(REPO)
    stages = list(dict.fromkeys(p.stage for p in preparing.seen))
    assert stages[:2] == [PrepareStage.RESOLVING, PrepareStage.DOWNLOADING]
    assert stages[-1] == PrepareStage.CONVERTING
    assert any(p.total for p in preparing.seen if p.stage is PrepareStage.DOWNLOADING)


def test_moved_branch_is_kept_until_it_is_pulled(hub, preparing):
    old = hub.commit(REPO, tiny.llama_files(seed=1))
    first = preparing(REPO)
    new = hub.commit(REPO, tiny.llama_files(seed=2))
    assert preparing.find(REPO).manifest.commit == old
    assert preparing(REPO).manifest.commit == old
    second = preparing(REPO, refresh=True)
    assert second.manifest.commit == new
    assert preparing.said(f"main moved {old[:7]} → {new[:7]}")
    assert second.path != first.path
    assert (first.path / "model.safetensors").exists()  # first is still held by this reader
    first.lease.release()
    preparing(REPO, refresh=True)
    assert preparing.said("up to date")
    assert not first.path.exists()


def test_a_pinned_revision(hub, preparing):
    old = hub.commit(REPO, tiny.llama_files(seed=1))
    hub.commit(REPO, tiny.llama_files(seed=2))
    assert preparing(f"{REPO}@{old}").manifest.commit == old
    assert preparing(REPO, revision=old).manifest.revision == old


def test_code_is_refused_unless_trusted(hub, preparing):
    files = tiny.llama_files(model_file="mine.py")
    hub.commit(REPO, files | {"mine.py": b"raise SystemExit('ran')"})
    with pytest.raises(UnsupportedModelError, match=r"code of its own \(mine.py\)"):
        preparing(REPO)
    assert not hub.fetched("model.safetensors")
