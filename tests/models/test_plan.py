"""What precision a model gets on which device."""

from __future__ import annotations

import pytest

from pensieved.models.preparer import plan
from pensieved.models.preparer.plan import Plan, Precision, choose_plan, gguf_dtype, precision_of

BF16, F32, Q4 = Precision("bfloat16"), Precision("float32"), Precision("bfloat16", quantized=True, bits=4)


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request, monkeypatch):
    monkeypatch.setattr(plan.platform, "machine", lambda: request.param)
    return request.param


@pytest.mark.parametrize("backend", ["metal", "cuda"])
def test_gpus_take_four_bits_unless_quantized(backend, machine):
    assert choose_plan("auto", backend, BF16) == Plan(bits=4)
    assert choose_plan("auto", backend, Q4).changes_nothing
    assert choose_plan("4bit", backend, Q4).changes_nothing
    assert choose_plan("8bit", backend, Q4) == Plan(bits=8, dequantize=True)
    assert choose_plan("none", backend, BF16).changes_nothing


def test_cpus(machine):
    chosen = choose_plan("auto", "cpu", BF16)
    if machine == "x86_64":
        assert chosen == Plan("float32")
        assert choose_plan("auto", "cpu", Q4) == Plan("float32", dequantize=True)
        assert choose_plan("4bit", "cpu", BF16) == Plan("float32", bits=4)
    else:
        assert chosen.changes_nothing
        assert choose_plan("4bit", "cpu", BF16) == Plan(bits=4)
    assert choose_plan("auto", "cpu", F32).changes_nothing
    assert choose_plan("none", "cpu", Q4).changes_nothing


def test_what_comes_out_has_a_name(machine):
    assert Plan(bits=4).result(BF16) == "4bit"
    assert Plan().result(BF16) == "bfloat16"
    assert Plan().result(Q4) == "4bit"
    assert Plan("float32", dequantize=True).result(Q4) == "float32"


def test_gguf_types():
    assert gguf_dtype("auto", "cpu", None) == "float32"
    assert gguf_dtype("auto", "cpu", "float16") == "float32"
    assert gguf_dtype("none", "cpu", "float16") == "float16"
    assert gguf_dtype("auto", "metal", None) == "bfloat16"
    assert gguf_dtype("8bit", "cuda", "float16") == "float16"


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({"torch_dtype": "bfloat16"}, BF16),
        ({"dtype": "float32"}, F32),
        ({"text_config": {"dtype": "bfloat16"}}, BF16),
        ({"torch_dtype": "bfloat16", "quantization": {"bits": 4, "group_size": 64}}, Q4),
        ({"quantization_config": {"quant_method": "mxfp4"}}, Precision(None, quantized=True, bits=4)),
        ({"quantization_config": {"quant_method": "fp8"}}, Precision(None, quantized=True)),
        ({}, Precision(None)),
    ],
)
def test_precision_of_a_config(config, precision):
    assert precision_of(config) == precision
