"""config.json from GGUF metadata, with the keys that mlx-lm's model classes read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pensieved.errors import UnsupportedModelError

if TYPE_CHECKING:
    from pensieved.models.gguf.architectures import Architecture
    from pensieved.models.gguf.reader import GgufModel

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # what every published model uses
_LLAMA3_CONTEXTS = (8192, 4096, 16384, 2048, 32768)
_DEFAULT_ROPE_BASE = 10000.0
_GEMMA3_ROPE_BASE = 1_000_000.0
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}  # these scale by hidden/heads, the others by head_dim


def build_config(model: GgufModel, architecture: Architecture, dtype: str) -> dict[str, Any]:
    """The configuration. Raises UnsupportedModelError for what mlx-lm's class of this type cannot do."""
    if model.setting("expert_count", 0):
        raise UnsupportedModelError(
            f"{model.name} is a mixture of experts, which cannot be read from GGUF.",
            hint="Use its safetensors version.",
        )
    heads = model.need("attention.head_count")
    hidden = model.need("embedding_length")
    if isinstance(heads, list):
        raise UnsupportedModelError(f"{model.name} has a different number of heads per layer.")
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.hf_class],
        "hidden_size": hidden,
        "num_hidden_layers": model.need("block_count"),
        "intermediate_size": model.need("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": model.setting("attention.head_count_kv", heads),
        "head_dim": model.setting("attention.key_length", hidden // heads),
        "rms_norm_eps": float(str(np.float32(model.need("attention.layer_norm_rms_epsilon")))),
        "vocab_size": model.shape("token_embd.weight")[0],
        "max_position_embeddings": model.need("context_length"),
        "tie_word_embeddings": "output.weight" not in model,
        "torch_dtype": dtype,
        "bos_token_id": model.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _eos(model),
    }
    config |= _rope(model, config)
    config |= _EXTRAS.get(model.architecture, _nothing)(model, config)
    return {key: value for key, value in config.items() if value is not None}


def _nothing(_model: GgufModel, _config: dict[str, Any]) -> dict[str, Any]:
    return {}


def _llama(model: GgufModel, _config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention_bias": "blk.0.attn_q.bias" in model,
        "mlp_bias": "blk.0.ffn_gate.bias" in model,
    }


def _gemma2(model: GgufModel, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attn_logit_softcapping": model.setting("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": model.setting("final_logit_softcapping", 30.0),
        "sliding_window": model.setting("attention.sliding_window"),
        "query_pre_attn_scalar": _gemma_scalar(model, config),
    }


def _gemma3(model: GgufModel, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "sliding_window": model.setting("attention.sliding_window"),
        "sliding_window_pattern": 6,
        "rope_theta": float(model.setting("rope.freq_base", _GEMMA3_ROPE_BASE)),
        "rope_local_base_freq": float(model.setting("rope.freq_base_swa", _DEFAULT_ROPE_BASE)),
        "query_pre_attn_scalar": _gemma_scalar(model, config),
    }


def _gemma_scalar(model: GgufModel, config: dict[str, Any]) -> float:
    if config["num_hidden_layers"] == _GEMMA_27B_LAYERS[model.architecture]:
        return float(config["hidden_size"] / config["num_attention_heads"])
    return float(config["head_dim"])


def _phi3(model: GgufModel, config: dict[str, Any]) -> dict[str, Any]:
    rotated = model.setting("rope.dimension_count", config["head_dim"])
    extras: dict[str, Any] = {"partial_rotary_factor": rotated / config["head_dim"]}
    original = model.setting("rope.scaling.original_context_length", config["max_position_embeddings"])
    extras["original_max_position_embeddings"] = original
    if "rope_factors_long.weight" in model:
        extras["rope_scaling"] = {
            "type": "longrope",
            "long_factor": model.array("rope_factors_long.weight").ravel().tolist(),
            "short_factor": model.array("rope_factors_short.weight").ravel().tolist(),
            "original_max_position_embeddings": original,
        }
    return extras


_EXTRAS = {"llama": _llama, "mistral": _llama, "gemma2": _gemma2, "gemma3": _gemma3, "phi3": _phi3}


def _eos(model: GgufModel) -> int | list[int] | None:
    """End of text and end of turn: a model stops at either."""
    ids = [model.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    known = sorted({token for token in ids if token is not None})
    return known[0] if len(known) == 1 else known or None


def _rope(model: GgufModel, config: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_theta": float(model.setting("rope.freq_base", _DEFAULT_ROPE_BASE))}
    if "rope_freqs.weight" in model:
        rope["rope_scaling"] = _llama3_scaling(model, rope["rope_theta"], config["head_dim"])
        return rope
    kind = model.setting("rope.scaling.type", "none")
    factor = model.setting("rope.scaling.factor", 1.0)
    if kind == "linear":
        rope["rope_scaling"] = {"rope_type": "linear", "type": "linear", "factor": float(factor)}
    elif kind == "yarn":
        original = model.setting("rope.scaling.original_context_length", config["max_position_embeddings"])
        rope["rope_scaling"] = {
            "rope_type": "yarn",
            "type": "yarn",
            "factor": float(factor),
            "original_max_position_embeddings": original,
        }
    elif kind not in {"none", "longrope"}:
        raise UnsupportedModelError(
            f"{model.name} scales its rotary embedding by {kind!r}, which cannot be read."
        )
    return rope


def _llama3_scaling(model: GgufModel, base: float, head_dim: int) -> dict[str, Any]:
    """Find the llama3 parameters that give the stored factors: GGUF keeps only the result.

    The factor is the largest; the published models share the other two and differ in their context length.
    """
    stored = model.array("rope_freqs.weight").ravel()
    dims = 2 * stored.size if stored.size else head_dim
    factor = float(stored.max())
    for context in _LLAMA3_CONTEXTS:
        scaling = {"factor": factor, "original_max_position_embeddings": context, **_LLAMA3}
        if np.allclose(_llama3_factors(base, dims, scaling), stored, rtol=1e-3):
            return {"rope_type": "llama3", "type": "llama3", **scaling}
    raise UnsupportedModelError(f"{model.name} has rotary factors that are not those of any llama3 scaling.")


def _llama3_factors(
    base: float, dims: int, scaling: dict[str, float]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """llama.cpp's `generate_extra_tensors` of LlamaModel: by what each frequency is divided."""
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for i in range(0, dims, 2):
        wavelength = 2 * math.pi * base ** (i / dims)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors)
