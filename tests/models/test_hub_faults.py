"""A Hub that misbehaves: each kind of failure has its own behaviour and its own message."""

from __future__ import annotations

import hashlib

import pytest

from pensieved.errors import (
    IntegrityError,
    ModelUnavailableError,
    SourceUnreachableError,
    UnsupportedModelError,
)
from support import tiny
from support.hub import Faults

pytestmark = pytest.mark.slow  # each prepares in a process of its own

REPO = "tiny/llama"
WEIGHTS = "model.safetensors"


@pytest.fixture
def files():
    return tiny.llama_files()


def test_a_cut_download_is_continued(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.cut[WEIGHTS] = [100_000, 200_000]
    preparing(REPO)
    assert hub.fetched(WEIGHTS)[0].range is None
    assert all(r.range for r in hub.fetched(WEIGHTS)[1:])
    assert hub.bytes_sent(WEIGHTS) < len(files[WEIGHTS]) * 1.1


def test_a_download_continues_in_the_next_process(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.cut[WEIGHTS] = [400_000]
    hub.faults.status[WEIGHTS] = []
    with pytest.raises(SourceUnreachableError, match="HTTP 503"):
        _with_statuses_after_cut(hub, preparing)
    sent = hub.bytes_sent(WEIGHTS)
    assert 0 < sent <= 400_000
    hub.faults = Faults()
    preparing(REPO)
    last = hub.fetched(WEIGHTS)[-1]
    assert last.range is not None
    assert last.sent == len(files[WEIGHTS]) - int(last.range.removeprefix("bytes=").removesuffix("-"))


def _with_statuses_after_cut(hub, preparing):
    """The body breaks once, and from then on the Hub answers 503."""

    class After(list):
        def __bool__(self):
            return bool(hub.fetched(WEIGHTS))

        def pop(self, _index):
            return 503

    hub.faults.status[WEIGHTS] = After()
    preparing(REPO)


def test_a_server_that_ignores_range_does_not_garble_the_file(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.cut[WEIGHTS] = [100_000]
    hub.faults.ignore_range = True
    model = preparing(REPO)
    assert (model.path / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_server_errors_are_waited_out(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.api_status = [503, 429]
    hub.faults.status[WEIGHTS] = [500, 502, 429]
    preparing(REPO)
    assert preparing.said("HTTP 503; trying again")
    assert preparing.said("HTTP 429; trying again")


def test_a_server_that_stays_down_is_unreachable(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.api_status = [503] * 20
    hub.faults.retry_after = 0
    with pytest.raises(SourceUnreachableError, match="HTTP 503") as caught:
        preparing(REPO)
    assert caught.value.retry_after == 0


def test_truncated_bodies_are_completed(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.truncate = {WEIGHTS: 1, "config.json": 1}
    model = preparing(REPO)
    assert (model.path / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_wrong_bytes_are_fetched_anew_and_only_they(hub, preparing, files):
    hub.commit(REPO, files)
    hub.faults.wrong_bytes = {WEIGHTS: 1, "config.json": 1}
    model = preparing(REPO)
    assert preparing.said(f"{WEIGHTS} came with wrong bytes")
    assert (
        hashlib.sha256((model.path / WEIGHTS).read_bytes()).digest()
        == hashlib.sha256(files[WEIGHTS]).digest()
    )
    assert len(hub.fetched(WEIGHTS)) == 2
    assert len(hub.fetched("tokenizer.json")) == 1


def test_wrong_bytes_time_after_time_are_an_error(hub, preparing, files, tmp_path):
    hub.commit(REPO, files)
    hub.faults.wrong_bytes = {WEIGHTS: 99}
    with pytest.raises(IntegrityError, match=r"model\.safetensors of tiny/llama has the wrong hash"):
        preparing(REPO)
    assert not list((tmp_path / "hf").rglob(WEIGHTS))
    assert preparing.find(REPO) is None


def test_a_damaged_file_of_another_tool_is_not_trusted(hub, preparing, files, tmp_path):
    hub.commit(REPO, files)
    first = preparing(REPO)
    blob = (first.path / WEIGHTS).resolve()
    data = bytearray(blob.read_bytes())
    data[5000] ^= 1
    blob.write_bytes(data)
    other = preparing(REPO, quantization="none")
    assert preparing.said("in the Hub cache is damaged")
    assert (other.path / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert len(hub.fetched(WEIGHTS)) == 2
    assert len(hub.fetched("tokenizer.json")) == 1


def test_gated(hub, preparing, files, monkeypatch):
    hub.commit(REPO, files)
    hub.repos[REPO].gated = True
    with pytest.raises(ModelUnavailableError, match="gated or private") as caught:
        preparing(REPO)
    assert "Accept its licence" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert preparing(REPO).manifest.name == REPO


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("tiny/missing", "There is no model tiny/missing"),
        ("tiny/private", "There is no model tiny/private at .*, or it is private"),
        (f"{REPO}@v9", "tiny/llama has no revision 'v9'"),
        (f"{REPO}/other.gguf", "has no complete GGUF file other.gguf"),
    ],
)
def test_what_is_not_there(hub, preparing, files, url, message):
    hub.commit(REPO, files)
    with pytest.raises(ModelUnavailableError, match=message):
        preparing(url)


def test_an_architecture_that_mlx_lm_does_not_know_is_refused_before_its_weights_are_fetched(hub, preparing):
    hub.commit(REPO, tiny.llama_files(model_type="gru9000"))
    with pytest.raises(UnsupportedModelError, match=r"architecture gru9000, which mlx-lm \d"):
        preparing(REPO)
    assert not hub.fetched(WEIGHTS)


def test_pickled_weights_are_refused(hub, preparing, files):
    del files[WEIGHTS]
    hub.commit(REPO, files | {"pytorch_model.bin": b"x" * 4000})
    with pytest.raises(UnsupportedModelError, match="only pickled PyTorch weights") as caught:
        preparing(REPO)
    assert "safetensors" in caught.value.hint
    assert not hub.fetched("pytorch_model.bin")


def test_weights_that_do_not_fit_their_configuration(hub, preparing, files):
    hub.commit(REPO, files | {"config.json": tiny.llama_files(hidden_size=192)["config.json"]})
    with pytest.raises(UnsupportedModelError, match="cannot run tiny/llama"):
        preparing(REPO)


def test_weights_that_compute_no_numbers(hub, preparing):
    config = tiny.llama_config()
    weights = tiny.llama_weights(config)
    weights["model.norm.weight"][0] = float("nan")
    hub.commit(REPO, tiny.llama_files() | {WEIGHTS: tiny.save(weights, {"format": "pt"})})
    with pytest.raises(IntegrityError, match="no finite numbers"):
        preparing(REPO)
    assert preparing.find(REPO) is None


def test_offline_with_a_cache(hub, preparing, files, monkeypatch):
    sha = hub.commit(REPO, files)
    preparing(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model = preparing(REPO, quantization="none")  # another preparation: resolve has to answer
    assert model.manifest.commit == sha
    assert preparing.said("from the Hub cache")


def test_offline_by_wish_with_a_cache(hub, preparing, files, monkeypatch):
    hub.commit(REPO, files)
    preparing(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    preparing(REPO, quantization="none")
    assert preparing.said("from the Hub cache")


def test_offline_without_a_cache(hub, preparing, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachableError, match="does not answer"):
        preparing(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnreachableError, match="HF_HUB_OFFLINE"):
        preparing(REPO)


def test_offline_with_half_a_cache(hub, preparing, monkeypatch):
    hub.commit(REPO, tiny.llama_files(shards=2))
    hub.faults.status["model-00002-of-00002.safetensors"] = [503] * 20
    with pytest.raises(SourceUnreachableError):
        preparing(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachableError, match="only a part of tiny/llama"):
        preparing(REPO)


def test_a_branch_that_moves_during_a_download_does_not_mix_files(hub, preparing, files):
    old = hub.commit(REPO, files)

    class MoveThenCut(list):
        def pop(self, index):
            hub.commit(REPO, tiny.llama_files(seed=7))
            return super().pop(index)

    hub.faults.cut[WEIGHTS] = MoveThenCut([100_000])
    model = preparing(REPO)
    assert model.manifest.commit == old
    assert (model.path / WEIGHTS).read_bytes() == files[WEIGHTS]
