"""The table of GGUF architectures that can be served: names of tensors, and what llama.cpp did to their values.

llama.cpp's converter is the reference: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py
It permutes the rows of q and k in the llama family (its rotary embedding pairs neighbours), and adds the 1
that Gemma's norms keep implicit. Both are undone here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from pensieved.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")

_TOP: Mapping[str, str] = MappingProxyType(
    {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
)
_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP = {
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH = {  # norms before and after both halves of the block
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Args:
        model_type: mlx-lm's name of it.
        hf_class: transformers' name, for config.json.
        blocks: a block's tensors, GGUF name to MLX name.
        rotary_permuted: rows of q and k are permuted.
        norm_offset: what llama.cpp added to each norm.
        fused_qkv: q, k and v are one matrix in MLX.
    """

    model_type: str
    hf_class: str
    blocks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(_ATTENTION | _MLP))
    rotary_permuted: bool = False
    norm_offset: float = 0.0
    fused_qkv: bool = False

    def mlx_name(self, tensor: str) -> str | None:
        """MLX's name for a GGUF tensor, or None if MLX has no such tensor."""
        if match := _BLOCK.fullmatch(tensor):
            layer, name, kind = match.groups()
            return f"model.layers.{layer}.{self.blocks[name]}.{kind}" if name in self.blocks else None
        name, _, kind = tensor.rpartition(".")
        return f"{_TOP[name]}.{kind}" if name in _TOP else None

    def is_norm(self, tensor: str) -> bool:
        """Whether a GGUF tensor is the weight of a norm."""
        return tensor.endswith("_norm.weight")


_PHI3_BLOCKS = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("llama", "LlamaForCausalLM", rotary_permuted=True),
        "mistral": Architecture("llama", "LlamaForCausalLM", rotary_permuted=True),
        "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
        "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", blocks=_ATTENTION | _MLP | _QK_NORM),
        "gemma": Architecture("gemma", "GemmaForCausalLM", norm_offset=1.0),
        "gemma2": Architecture(
            "gemma2", "Gemma2ForCausalLM", blocks=_ATTENTION | _MLP | _SANDWICH, norm_offset=1.0
        ),
        "gemma3": Architecture(
            "gemma3_text",
            "Gemma3ForCausalLM",
            blocks=_ATTENTION | _MLP | _QK_NORM | _SANDWICH,
            norm_offset=1.0,
        ),
        "phi3": Architecture("phi3", "Phi3ForCausalLM", blocks=_PHI3_BLOCKS, fused_qkv=True),
    }
)


def architecture_of(name: str, model: str) -> Architecture:
    """The entry for GGUF's `general.architecture`. Raises UnsupportedModelError."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UnsupportedModelError(
            f"{model} is a GGUF of architecture {name or 'unknown'!r}; those that can be read are "
            f"{', '.join(ARCHITECTURES)}.",
            hint="Use the model's safetensors version: mlx-lm knows many more architectures.",
        ) from None


def unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's permutation of the rows of q or k: pairs (2i, 2i+1) become halves (i, i + d/2)."""
    rows = weight.shape[0]
    return (
        weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )
