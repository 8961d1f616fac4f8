"""Tiny models with random weights, made in milliseconds: for everything that needs shapes, not sense."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from pathlib import Path

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "what is the capital of France? Paris",
    "0123456789",
)


def tokenizer(vocabulary: int = 320) -> Tokenizer:
    """A byte-level BPE tokenizer: it can encode any text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_CORPUS * 50, trainer)
    return made


def tokenizer_files(vocabulary: int = 320) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "chat_template": CHATML,
        "model_max_length": 512,
    }
    return {
        "tokenizer.json": tokenizer(vocabulary).to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }


def llama_config(**changes: Any) -> dict[str, Any]:
    """A llama of two layers; its widths are multiples of 64, so that it can be quantized."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 320,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        **changes,
    }


def llama_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights for the configuration, as float32."""
    random = np.random.default_rng(seed)
    hidden, middle, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, 0.05, (rows, columns)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        weights |= {
            block + "input_layernorm.weight": np.ones(hidden, np.float32),
            block + "post_attention_layernorm.weight": np.ones(hidden, np.float32),
            block + "self_attn.q_proj.weight": matrix(hidden, hidden),
            block + "self_attn.k_proj.weight": matrix(kv, hidden),
            block + "self_attn.v_proj.weight": matrix(kv, hidden),
            block + "self_attn.o_proj.weight": matrix(hidden, hidden),
            block + "mlp.gate_proj.weight": matrix(middle, hidden),
            block + "mlp.up_proj.weight": matrix(middle, hidden),
            block + "mlp.down_proj.weight": matrix(hidden, middle),
        }
    weights["model.norm.weight"] = np.ones(hidden, np.float32)
    return weights


def llama_files(
    *, seed: int = 0, dtype: str = "float32", shards: int = 1, **changes: Any
) -> dict[str, bytes]:
    """A whole repository: config.json, weights (in `shards` files) and tokenizer."""
    config = llama_config(torch_dtype=dtype, **changes)
    weights = {name: value.astype(dtype) for name, value in llama_weights(config, seed).items()}
    files = {"config.json": json.dumps(config).encode(), "README.md": b"# tiny\n", **tokenizer_files()}
    if shards == 1:
        return files | {"model.safetensors": save(weights, {"format": "pt"})}
    names = sorted(weights)
    weight_map = {}
    for part in range(shards):
        shard = f"model-{part + 1:05}-of-{shards:05}.safetensors"
        chosen = names[part::shards]
        weight_map |= dict.fromkeys(chosen, shard)
        files[shard] = save({name: weights[name] for name in chosen}, {"format": "pt"})
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """The files on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
