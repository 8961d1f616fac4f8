"""Which of a source's files make the model: its weights once, in one format, and what describes them."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from pensieved.errors import ModelUnavailableError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_DESCRIPTIONS = ("*.json", "*.jinja", "*.txt", "*.jsonl", "tokenizer.model", "*.tiktoken", "tiktoken.model")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")
_QUANT_TAG = re.compile(
    r"(?:^|[-._/])(?P<tag>I?Q(?P<bits>\d)[A-Z0-9_]*|B?F16|FP16|F32|MXFP4)(?=[-._/]|$)", re.IGNORECASE
)
_NO_MODEL = re.compile(r"mmproj|imatrix")
_FLAVOURS = ("K_M", "K_L", "K_XL", "K_S", "K", "_0", "_1", "NL", "XS")  # best known first, at equal bits
_WHOLE = {"F16": 16, "FP16": 16, "BF16": 16, "F32": 32, "MXFP4": 4}
_WANTED_BITS = {"auto": 4, "none": 16}


@dataclass(frozen=True)
class Selection:
    """The files to have; `weights` are those of them that hold tensors, in order."""

    files: tuple[str, ...]
    weights: tuple[str, ...]
    format: Literal["safetensors", "gguf"]


def select_files(names: Collection[str], quantization: str, name: str, *, code: bool = False) -> Selection:
    """The model among `names`.

    Args:
        names: paths of all files, relative to the source.
        quantization: as asked for; decides which file of a GGUF repository it is.
        name: the model's name, for errors.
        code: take the model's Python files too.

    Raises:
        UnsupportedModelError: there is no model in a format that can be served.
    """
    names = [n for n in names if _is_inside(n)]
    weights = _safetensors(names)
    if weights and CONFIG in names:
        patterns = (*_DESCRIPTIONS, "*.py") if code else _DESCRIPTIONS
        described = [n for n in names if "/" not in n and any(fnmatch.fnmatch(n, p) for p in patterns)]
        return Selection((*sorted(described), *weights), tuple(weights), "safetensors")
    if groups := _gguf_models(names):
        best = min(groups, key=lambda group: _preference(group[0], quantization))
        return Selection(best, best, "gguf")
    raise _nothing_to_serve(names, name)


def select_gguf(names: Collection[str], file: str, name: str) -> Selection:
    """One GGUF file of a repository, with the other parts if it is split. Raises ModelUnavailableError."""
    for group in _gguf_models(names):
        if file in group:
            return Selection(group, group, "gguf")
    known = ", ".join(group[0] for group in _gguf_models(names)) or "none"
    raise ModelUnavailableError(
        f"{name} has no complete GGUF file {file}.", hint=f"GGUF files there: {known}."
    )


def _is_inside(name: str) -> bool:
    """Whether a published name stays inside the folder that it is fetched into."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _safetensors(names: Collection[str]) -> list[str]:
    if INDEX in names and (shards := sorted(n for n in names if _SHARD.fullmatch(n))):
        return shards
    if "model.safetensors" in names:
        return ["model.safetensors"]
    return sorted(n for n in names if fnmatch.fnmatch(n, "model*.safetensors") and "/" not in n)


def _gguf_models(names: Iterable[str]) -> list[tuple[str, ...]]:
    """GGUF models, each as its parts in order; incomplete ones and vision projectors are no models."""
    files = sorted(
        n for n in names if n.endswith(".gguf") and "mmproj" not in n.lower() and "imatrix" not in n
    )
    models: dict[str, list[str]] = {}
    for file in files:
        split = _SPLIT.fullmatch(file)
        models.setdefault(f"{split['stem']}/{split['parts']}" if split else file, []).append(file)
    return [tuple(parts) for parts in models.values() if len(parts) == _expected_parts(parts[0])]


def _expected_parts(file: str) -> int:
    split = _SPLIT.fullmatch(file)
    return int(split["parts"]) if split else 1


def _preference(file: str, quantization: str) -> tuple[bool, int, int, str]:
    """Sorts nearest first: enough bits before too few, then nearness, then how well known the flavour is."""
    wanted = _WANTED_BITS.get(quantization) or int(quantization.removesuffix("bit"))
    tags = list(_QUANT_TAG.finditer(file))
    if not tags:
        return (False, 64, 0, file)
    tag = tags[-1]["tag"].upper()
    bits = int(tags[-1]["bits"]) if tags[-1]["bits"] else _WHOLE[tag]
    flavour = next((rank for rank, f in enumerate(_FLAVOURS) if tag.endswith(f)), len(_FLAVOURS))
    return (bits < wanted, abs(bits - wanted), flavour + (10 if tag.startswith("I") else 0), file)


def _nothing_to_serve(names: Collection[str], name: str) -> UnsupportedModelError:
    if any(n.endswith((".bin", ".pt", ".pth", ".ckpt")) for n in names):
        return UnsupportedModelError(
            f"{name} has only pickled PyTorch weights, and reading those can run code.",
            hint="Use a version with safetensors or GGUF weights (mlx-community has many), or save it as safetensors.",
        )
    if _safetensors(names):
        return UnsupportedModelError(
            f"{name} has weights but no {CONFIG}.", hint="Is it an adapter? Name its base."
        )
    return UnsupportedModelError(
        f"{name} holds no model: there are neither model*.safetensors nor .gguf files.",
        hint="Name a text model in Hugging Face, MLX or GGUF format.",
    )
