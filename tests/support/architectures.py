"""Tiny models with random weights, of several architectures, in this process: for tests of what runs a model."""

import importlib

import mlx.core as mx
from mlx.utils import tree_map_with_path

VOCABULARY = 96
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_OWN = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {"rope_scaling": None},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 4096},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma3_text": {"sliding_window": 24, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "lfm2": {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 64,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    },
}
PLAIN = ("llama", "qwen2", "qwen3", "phi3", "gemma", "olmo2", "mixtral")
"""Architectures whose caches are all plain KV caches."""
OTHERS = ("gemma3_text", "lfm2")
"""A sliding window; convolutions with a state."""


def model_of(kind, seed=0):
    """A model in float32, large enough weights that its answers vary."""
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": kind, **_SIZES, **_OWN[kind]}))
    mx.random.seed(seed)

    def random(path, value):
        if path.endswith("norm.weight"):
            return mx.ones(value.shape)
        return 0.3 * mx.random.normal(value.shape)

    model.update(tree_map_with_path(random, model.parameters()))
    mx.eval(model.parameters())
    return model
