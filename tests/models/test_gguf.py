"""GGUF against the model it was written from: same logits, whatever the architecture or the tensor type."""

from __future__ import annotations

import json

import gguf
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pensieved.errors import UnsupportedModelError
from pensieved.models.gguf.architectures import ARCHITECTURES
from pensieved.models.gguf.config import _llama3_factors
from pensieved.models.gguf.convert import convert_gguf
from pensieved.models.gguf.reader import GgufModel
from pensieved.models.gguf.writer import Tensor, encode, write_safetensors
from support import tiny
from support.tinygguf import BASE, random_model, weights_of, write_gguf

GEMMA = {"num_hidden_layers": 7, "query_pre_attn_scalar": 16.0, "rms_norm_eps": 1e-6}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PHI3 = {"head_dim": 16, "partial_rotary_factor": 1.0, "original_max_position_embeddings": 256}

CASES = {
    "llama": ("llama", {"model_type": "llama"}, {}),
    "llama untied": ("llama", {"model_type": "llama", "tie_word_embeddings": False}, {}),
    "llama biased": ("llama", {"model_type": "llama", "attention_bias": True}, {}),
    "llama linear rope": (
        "llama",
        {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama yarn": (
        "llama",
        {
            "model_type": "llama",
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
    ),
    "mistral": ("mistral", {"model_type": "mistral"}, {}),
    "qwen2": ("qwen2", {"model_type": "qwen2"}, {}),
    "qwen3": ("qwen3", {"model_type": "qwen3", "head_dim": 32}, {}),
    "gemma": ("gemma", {"model_type": "gemma", "head_dim": 32}, {}),
    "gemma2": (
        "gemma2",
        {"model_type": "gemma2", **GEMMA, "attn_logit_softcapping": 40.0},
        {"attn_logit_softcapping": 40.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": (
        "gemma3",
        {"model_type": "gemma3_text", **GEMMA, "sliding_window": 8, "rope_theta": 1e6},
        {"attention.sliding_window": 8},
    ),
    "phi3": ("phi3", {"model_type": "phi3", **PHI3, "tie_word_embeddings": False}, {}),
}


def logits(model):
    tokens = mx.array([[1, 5, 9, 300, 42, 7, 8, 11, 100, 200, 3, 17]])
    return np.array(model(tokens).astype(mx.float32))


def converted(path, folder, dtype="float32"):
    folder.mkdir()
    convert_gguf(
        GgufModel([path] if not isinstance(path, list) else path, "tiny"), folder, dtype, lambda _: None
    )
    return load_model(folder)[0]


@pytest.fixture(autouse=True)
def _on_cpu():
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def test_every_architecture_has_a_case():
    assert {architecture for architecture, _, _ in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_logits_of_every_architecture(tmp_path, case):
    architecture, changes, metadata = CASES[case]
    config = BASE | changes
    model = random_model(config)
    path = write_gguf(tmp_path / "m.gguf", architecture, config, weights_of(model), metadata=metadata)
    result = converted(path, tmp_path / "out")
    np.testing.assert_allclose(logits(result), logits(model), rtol=1e-4, atol=1e-4)
    assert {k for k, _ in load_file(tmp_path / "out" / "model.safetensors").items()} == weights_of(
        model
    ).keys()


def test_llama3_rope_is_recognized_from_its_factors(tmp_path):
    config = BASE | {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
    }
    model = random_model(config)
    factors = _llama3_factors(500000.0, 16, LLAMA3)
    extra = {"rope_freqs.weight": factors}
    path = write_gguf(tmp_path / "m.gguf", "llama", config, weights_of(model), extra=extra)
    result = converted(path, tmp_path / "out")
    np.testing.assert_allclose(logits(result), logits(model), rtol=1e-4, atol=1e-4)
    wrong = write_gguf(
        tmp_path / "w.gguf",
        "llama",
        config,
        weights_of(model),
        extra={"rope_freqs.weight": factors[::-1].copy()},
    )
    with pytest.raises(UnsupportedModelError, match="rotary factors"):
        converted(wrong, tmp_path / "wrong")


def test_phi3_longrope_and_separate_qkv(tmp_path):
    long, short = [1.0 + i / 8 for i in range(8)], [1.0] * 8
    scaling = {"type": "longrope", "long_factor": long, "short_factor": short}
    config = (
        BASE | PHI3 | {"model_type": "phi3", "rope_scaling": scaling, "original_max_position_embeddings": 64}
    )
    model = random_model(config)
    weights = {}
    for name, value in weights_of(model).items():
        if "qkv_proj" in name:
            q, k, v = np.split(value, [64, 96])
            parts = {"q_proj": q, "k_proj": k, "v_proj": v}
            weights |= {name.replace("qkv_proj", part): array for part, array in parts.items()}
        else:
            weights[name] = value
    path = write_gguf(
        tmp_path / "m.gguf",
        "phi3",
        config,
        weights,
        metadata={"rope.scaling.original_context_length": 64},
        extra={"rope_factors_long.weight": np.array(long), "rope_factors_short.weight": np.array(short)},
    )
    result = converted(path, tmp_path / "out")
    np.testing.assert_allclose(logits(result), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
def test_tensor_types(tmp_path, kind):
    config = BASE | {"model_type": "qwen2"}
    weights = weights_of(random_model(config))
    quantization = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "m.gguf", "qwen2", config, weights, kind=quantization)
    converted(path, tmp_path / "out")
    result = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in weights.items():
        expected = (
            gguf.dequantize(gguf.quantize(value, quantization), quantization) if value.ndim > 1 else value
        )
        np.testing.assert_array_equal(result[name], expected, err_msg=name)


def test_what_the_file_is_stored_as(tmp_path):
    config = BASE | {"model_type": "llama"}
    weights = weights_of(random_model(config))
    for kind, expected in (("F16", "float16"), ("BF16", "bfloat16"), ("F32", "float32"), ("Q8_0", None)):
        path = write_gguf(
            tmp_path / f"{kind}.gguf", "llama", config, weights, kind=gguf.GGMLQuantizationType[kind]
        )
        assert GgufModel([path], "tiny").float_type == expected


def test_split_files_are_one_model(tmp_path):
    config = BASE | {"model_type": "llama"}
    model = random_model(config)
    weights = weights_of(model)
    names = sorted(weights)
    first = write_gguf(
        tmp_path / "m-00001-of-00002.gguf", "llama", config, {n: weights[n] for n in names[:7]}
    )
    second = write_gguf(
        tmp_path / "m-00002-of-00002.gguf",
        "llama",
        config,
        {n: weights[n] for n in names[7:]},
        tokenizer=False,
    )
    result = converted([first, second], tmp_path / "out")
    np.testing.assert_allclose(logits(result), logits(model), rtol=1e-4, atol=1e-4)


def test_other_architectures_are_refused_by_name(tmp_path):
    config = BASE | {"model_type": "llama"}
    path = write_gguf(tmp_path / "m.gguf", "rwkv9", config, weights_of(random_model(config)))
    with pytest.raises(
        UnsupportedModelError, match="architecture 'rwkv9'; those that can be read are llama, mistral"
    ):
        converted(path, tmp_path / "out")
    experts = write_gguf(
        tmp_path / "e.gguf", "llama", config, weights_of(random_model(config)), metadata={"expert_count": 8}
    )
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        converted(experts, tmp_path / "experts")


@pytest.mark.parametrize(
    "data", [b"", b"GGUF", b"not a gguf file at all" * 10, b"GGUF\x03\0\0\0" + b"\xff" * 64]
)
def test_what_is_no_gguf_is_refused(tmp_path, data):
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedModelError, match="not a readable GGUF"):
        GgufModel([path], "tiny")


def test_bfloat16_rounds_to_nearest_even_as_mlx_does():
    values = np.concatenate(
        [
            np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32),
            np.array([0.0, -0.0, 1.00390625, 1.01171875, np.inf, -np.inf], np.float32),
        ]
    )
    expected = np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16))
    np.testing.assert_array_equal(np.frombuffer(encode(values, "bfloat16"), np.uint16), expected)


def test_shards_have_an_index(tmp_path):
    arrays = {f"t{i}": np.full((4, 8), i, np.float32) for i in range(5)}
    tensors = [Tensor(name, value.shape, lambda value=value: [value]) for name, value in arrays.items()]
    write_safetensors(tmp_path, tensors, "float32", lambda _: None, shard=300)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    loaded = {k: v for path in tmp_path.glob("*.safetensors") for k, v in load_file(path).items()}
    assert all(np.array_equal(loaded[name], value) for name, value in arrays.items())


@pytest.mark.slow
def test_a_local_gguf_through_the_whole_chain(preparing, tmp_path):
    config = BASE | {"model_type": "llama", "head_dim": 16}
    model = random_model(config)
    path = write_gguf(tmp_path / "tiny.gguf", "llama", config, weights_of(model))
    prepared = preparing(str(path))
    assert prepared.manifest.name == "tiny"
    assert prepared.manifest.format == "gguf"
    assert prepared.manifest.tokenizer.has_chat_template
    np.testing.assert_allclose(logits(load_model(prepared.path)[0]), logits(model), rtol=1e-4, atol=1e-4)
    quantized = preparing(str(path), quantization="8bit")
    assert quantized.manifest.effective_quantization == "8bit"
    np.testing.assert_allclose(logits(load_model(quantized.path)[0]), logits(model), rtol=0.3, atol=0.3)


@pytest.mark.slow
def test_a_gguf_repository(hub, preparing, tmp_path):
    config = BASE | {"model_type": "llama"}
    weights = weights_of(random_model(config))
    files = {"README.md": b"#"}
    for kind in ("Q8_0", "Q4_0"):
        path = write_gguf(tmp_path / "x.gguf", "llama", config, weights, kind=gguf.GGMLQuantizationType[kind])
        files[f"tiny.{kind}.gguf"] = path.read_bytes()
    hub.commit("tiny/gguf", files)
    preparing("tiny/gguf")
    assert preparing.said("taking tiny.Q4_0.gguf of tiny/gguf")
    assert not hub.fetched("tiny.Q8_0.gguf")
    preparing("tiny/gguf/tiny.Q8_0.gguf")
    assert len(hub.fetched("tiny.Q8_0.gguf")) == 1


def test_the_rebuilt_tokenizer_is_the_original(tmp_path):
    config = BASE | {"model_type": "llama"}
    path = write_gguf(tmp_path / "m.gguf", "llama", config, weights_of(random_model(config)))
    converted(path, tmp_path / "out")
    original, rebuilt = tiny.tokenizer(), Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in ("the quick brown fox", "it's <|im_end|>\n\n  naïve 日本語 🎉", "x = 10  +\t2"):
        assert rebuilt.encode(text).ids == original.encode(text).ids
        assert rebuilt.decode(rebuilt.encode(text).ids, skip_special_tokens=False) == text
