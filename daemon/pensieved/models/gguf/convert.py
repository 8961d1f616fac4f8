"""A GGUF model as a folder that mlx-lm loads: weights in a float type, config.json and tokenizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from pensieved.errors import UnsupportedModelError
from pensieved.models.gguf.architectures import architecture_of, unpermute
from pensieved.models.gguf.config import build_config
from pensieved.models.gguf.tokenizer import write_tokenizer
from pensieved.models.gguf.writer import Tensor, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pensieved.models.gguf.architectures import Architecture
    from pensieved.models.gguf.reader import GgufModel

_NOT_WEIGHTS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})


def convert_gguf(model: GgufModel, folder: Path, dtype: str, on_bytes: Callable[[int], object]) -> None:
    """Write the model into `folder` with its weights as `dtype` (float32, float16 or bfloat16).

    Raises:
        UnsupportedModelError: the architecture, a tensor or the tokenizer cannot be read.
    """
    architecture = architecture_of(model.architecture, model.name)
    config = build_config(model, architecture, dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    write_tokenizer(model, folder, context_length=config["max_position_embeddings"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    write_safetensors(folder, list(_tensors(model, architecture, heads, kv_heads)), dtype, on_bytes)


def _tensors(model: GgufModel, architecture: Architecture, heads: int, kv_heads: int) -> Iterator[Tensor]:
    for name in model.tensor_names:
        if name in _NOT_WEIGHTS:
            continue
        if architecture.fused_qkv and ".attn_q." in name:
            yield _fused(model, name)
            continue
        if architecture.fused_qkv and (".attn_k." in name or ".attn_v." in name):
            continue
        renamed = architecture.mlx_name(name)
        if renamed is None:
            raise UnsupportedModelError(
                f"{model.name} has a tensor {name} that {architecture.model_type} models do not have.",
                hint="Use the model's safetensors version.",
            )
        yield Tensor(renamed, model.shape(name), _values(model, architecture, name, heads, kv_heads))


def _values(
    model: GgufModel, architecture: Architecture, name: str, heads: int, kv_heads: int
) -> Callable[[], Iterable[NDArray[np.float32]]]:
    if architecture.norm_offset and architecture.is_norm(name):
        return lambda: [model.array(name) - np.float32(architecture.norm_offset)]
    if architecture.rotary_permuted and ".attn_q." in name:
        return lambda: [unpermute(model.array(name), heads)]
    if architecture.rotary_permuted and ".attn_k." in name:
        return lambda: [unpermute(model.array(name), kv_heads)]
    return lambda: model.rows(name)


def _fused(model: GgufModel, q_name: str) -> Tensor:
    """q, k and v below each other, for files that hold them apart where MLX has one matrix."""
    names = [q_name.replace(".attn_q.", f".attn_{part}.") for part in "qkv"]
    rows = sum(model.shape(name)[0] for name in names)
    layer = q_name.split(".")[1]
    return Tensor(
        f"model.layers.{layer}.self_attn.qkv_proj.weight",
        (rows, *model.shape(q_name)[1:]),
        lambda: (chunk for name in names for chunk in model.rows(name)),
    )
