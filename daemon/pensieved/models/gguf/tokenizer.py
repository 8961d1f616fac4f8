"""tokenizer.json and its configuration from GGUF metadata.

A GGUF names its vocabulary's kind (`tokenizer.ggml.model`) and, for byte-level BPE, how text is cut before
merging (`tokenizer.ggml.pre`). llama.cpp's table of those is the reference:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
transformers can do this too, but only with PyTorch installed, and by the GPT-2 rule for every `pre` that it does
not know.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pensieved.errors import UnsupportedModelError
from pensieved.models.gguf.merges import merges_by_position, merges_by_score
from pensieved.models.gguf.pretokenize import split_patterns

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.models.gguf.reader import GgufModel

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_SPACE = "\u2581"  # sentencepiece's visible space
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def write_tokenizer(model: GgufModel, folder: Path, context_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and, if there is one, chat_template.jinja.

    Raises:
        UnsupportedModelError: there is no vocabulary, or one of an unknown kind.
    """
    tokens = model.get("tokenizer.ggml.tokens")
    kind = model.get("tokenizer.ggml.model")
    if not tokens or kind not in {"gpt2", "llama"}:
        raise UnsupportedModelError(
            f"{model.name} has a tokenizer of kind {kind!r}, which cannot be rebuilt from GGUF.",
            hint="Use the model's safetensors version.",
        )
    tokenizer = _byte_level(model, tokens) if kind == "gpt2" else _sentencepiece(model, tokens)
    _add_special_tokens(tokenizer, model, tokens)
    _add_bos(tokenizer, model, tokens, by_default=kind == "llama")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = _config(model, tokens, context_length)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    if template := model.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _byte_level(model: GgufModel, tokens: list[str]) -> Tokenizer:
    """Byte-level BPE: GPT-2's alphabet of bytes, and the file's own merges."""
    merges = [tuple(merge.split(" ", 1)) for merge in model.get("tokenizer.ggml.merges", [])]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=_ignores_merges(model))
    )
    steps: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        for pattern in split_patterns(model.get("tokenizer.ggml.pre", "default"))
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if model.architecture in {"qwen2", "qwen3"}:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _ignores_merges(model: GgufModel) -> bool:
    """Llama 3 takes a word that is in the vocabulary whole, whatever its merges would give."""
    return model.get("tokenizer.ggml.pre") in {"llama3", "llama-v3", "llama-bpe", "tekken"}


def _sentencepiece(model: GgufModel, tokens: list[str]) -> Tokenizer:
    """Sentencepiece BPE, bytes as ``<0x0A>`` where a character is not in the vocabulary."""
    gemma = model.architecture.startswith("gemma")
    if gemma:  # runs of spaces are stored as they are, and looked up in sentencepiece's spelling
        tokens = [_SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    stored = model.get("tokenizer.ggml.merges")
    if stored:
        merges = [tuple(merge.split(" ", 1)) for merge in stored]
    elif gemma:  # their scores do not follow the order of merges, their positions do
        merges = merges_by_position(vocabulary)
    else:
        merges = merges_by_score(vocabulary, model.get("tokenizer.ggml.scores", []))
    unknown = model.get("tokenizer.ggml.unknown_token_id", 0)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True)
    )
    prefix = model.get("tokenizer.ggml.add_space_prefix", not gemma)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _add_special_tokens(tokenizer: Tokenizer, model: GgufModel, tokens: list[str]) -> None:
    """Tokens that are matched whole in the text. One that BPE has no entry for would grow the vocabulary."""
    types = model.get("tokenizer.ggml.token_type", [])
    kinds = list(zip(tokens, types, strict=False))
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_special_tokens(
        [
            AddedToken(t, normalized=False, special=True)
            for t, kind in kinds
            if kind == _CONTROL and t in vocabulary
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) for t, kind in kinds if kind == _USER_DEFINED and t in vocabulary]
    )


def _add_bos(tokenizer: Tokenizer, model: GgufModel, tokens: list[str], *, by_default: bool) -> None:
    """Plain text begins with the model's first token where it was trained so."""
    bos = model.get("tokenizer.ggml.bos_token_id")
    byte_level = not by_default
    begin = bos is not None and model.get("tokenizer.ggml.add_bos_token", by_default)
    steps: list[Any] = [processors.ByteLevel(trim_offsets=False)] if byte_level else []
    if begin:
        steps.append(
            processors.TemplateProcessing(
                single=f"{tokens[bos]}:0 $A:0",
                pair=f"{tokens[bos]}:0 $A:0 {tokens[bos]}:1 $B:1",
                special_tokens=[(tokens[bos], bos)],
            )
        )
    if steps:
        tokenizer.post_processor = processors.Sequence(steps)


def _config(model: GgufModel, tokens: list[str], context_length: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    for name, key in _SPECIAL.items():
        index = model.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None and index < len(tokens):
            config[name] = tokens[index]
    return config
