"""Tiny GGUF files: what llama.cpp's converter would write for a random mlx-lm model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import _get_classes

from support import tiny

if TYPE_CHECKING:
    from pathlib import Path

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": 320,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def random_model(config: dict[str, Any], seed: int = 0) -> Any:
    """An mlx-lm model with random weights; norms too, so that a lost offset shows."""
    mx.random.seed(seed)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    if config["tie_word_embeddings"] and "lm_head" in model:  # gemma3 unties in sanitize
        model.sanitize({})
    model.update(tree_map(lambda a: mx.random.normal(a.shape) * 0.2, model.parameters()))
    mx.eval(model.parameters())
    return model


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def write_gguf(
    path: Path,
    architecture: str,
    config: dict[str, Any],
    weights: dict[str, np.ndarray],
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    tokenizer: bool = True,
) -> Path:
    """The model as one GGUF file; matrices are stored as `kind`."""
    writer = gguf.GGUFWriter(path, architecture)
    _metadata(writer, architecture, config, metadata or {})
    if tokenizer:
        _tokenizer(writer)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value.astype(np.float32))
    for name, value in weights.items():
        stored = _llama_cpp_value(architecture, name, value, config).astype(np.float32)
        if stored.ndim > 1 and kind is not gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(architecture, name), gguf.quantize(stored, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(architecture, name), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(architecture: str, name: str) -> str:
    """llama.cpp's name of an mlx-lm weight."""
    names = _NAMES | (_GEMMA_NAMES if architecture in {"gemma2", "gemma3"} else {})
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{names[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{names[rest]}.{kind}"


def _llama_cpp_value(architecture: str, name: str, value: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    if architecture in {"llama", "mistral"} and ("q_proj" in name or "k_proj" in name):
        heads = config["num_attention_heads"] if "q_proj" in name else config["num_key_value_heads"]
        halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
        return halves.swapaxes(1, 2).reshape(value.shape)
    return value + 1 if architecture.startswith("gemma") and "norm" in name else value


def _metadata(
    writer: gguf.GGUFWriter, architecture: str, config: dict[str, Any], more: dict[str, Any]
) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for key, value in more.items():
        full = f"{architecture}.{key}"
        if isinstance(value, str):
            writer.add_string(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        else:
            writer.add_float32(full, value)


def _tokenizer(writer: gguf.GGUFWriter) -> None:
    made = json.loads(tiny.tokenizer().to_str())["model"]
    vocabulary = sorted(made["vocab"], key=made["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in tiny.SPECIAL else 1 for token in vocabulary])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in made["merges"]]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tiny.CHATML)
