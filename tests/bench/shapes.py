"""Models of a real shape with random weights and a real tokenizer: for everything that needs size, not sense.

`python -m bench.shapes SHAPE FOLDER --tokenizer PREPARED [--bits 4|8|16|32]` writes one that both mlx-lm and the daemon load.
Its vocabulary is the tokenizer's, whatever the shape's own would be, so that every token it draws has a text.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

_LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "bos_token_id": 1, "max_position_embeddings": 8192}
SHAPES: dict[str, dict[str, Any]] = {
    "smol-135m": {
        **_LLAMA,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "phi3-mini": {
        **_LLAMA,
        "model_type": "phi3",
        "hidden_size": 3072,
        "num_hidden_layers": 32,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "tiny": {
        **_LLAMA,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
}
MADE_BY = "made_by"
"""The key of config.json that says where such a model came from."""
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "phi3": "Phi3ForCausalLM"}
_GROUP = 64
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write(shape: str, folder: Path, tokenizer: Path, bits: int) -> int:
    """The model in `folder`; returns the bytes of its weights. 16 bits are bfloat16, 4 and 8 quantized."""
    import mlx.core as mx  # noqa: PLC0415  the shapes are there without MLX
    from mlx import nn  # noqa: PLC0415
    from mlx.utils import tree_flatten  # noqa: PLC0415

    config = _config(shape, tokenizer, bits)
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.float32 if bits == 32 else mx.bfloat16)
    if bits in {4, 8}:
        nn.quantize(model, group_size=_GROUP, bits=bits)
    weights = dict(tree_flatten(model.parameters()))
    mx.eval(weights)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in _TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    return sum(each.nbytes for each in weights.values())


def _config(shape: str, tokenizer: Path, bits: int) -> dict[str, Any]:
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    size = 1 + max(
        *vocabulary["model"]["vocab"].values(), *(each["id"] for each in vocabulary["added_tokens"])
    )
    stop = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    config = {
        **SHAPES[shape],
        "architectures": [_ARCHITECTURES[SHAPES[shape]["model_type"]]],
        "vocab_size": size,
        "eos_token_id": stop,
        "torch_dtype": "float32" if bits == 32 else "bfloat16",
        MADE_BY: f"python -m bench.shapes {shape} FOLDER --tokenizer PREPARED --bits {bits}",
    }
    if bits in {4, 8}:
        config["quantization"] = {"group_size": _GROUP, "bits": bits}
    return config


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser("python -m bench.shapes", description="A model with random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a prepared model's folder")
    parser.add_argument("--bits", type=int, choices=(4, 8, 16, 32), default=16)
    said = parser.parse_args()
    size = write(said.shape, said.folder, said.tokenizer, said.bits)
    print(f"{said.folder}: {said.shape}, {said.bits} bits, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
