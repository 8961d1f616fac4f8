"""Tokenizers small enough to be trained while a test waits, in the two shapes that models come in."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = (
    "The quick brown fox jumps over the lazy dog. User: what is the capital of France? Paris is the capital.",
    "def answer(question): return f'{question}!'  # übergrößenträger naïve café, 東京は日本の首都です 🙂🎉",
    "<tool_call> stop STOP end END one two three four five six seven eight nine ten\n\nUser:\nAssistant:",
)
SPECIALS = (
    "<|bos|>",
    "<|im_start|>",
    "<|im_end|>",
    "<pad>",
    "<s>",
    "</s>",
    "<|eot_id|>",
    "<|begin_of_text|>",
)
SPECIALS += ("<|start_header_id|>", "<|end_header_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
SPECIALS += ("[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>")


@cache
def byte_level() -> Tokenizer:
    """Like GPT-2, Llama 3, Qwen and SmolLM: bytes as letters, merged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return tokenizer


@cache
def byte_fallback() -> Tokenizer:
    """Like Llama 2, Mistral, Gemma and Phi-3: characters with ▁ for spaces, and byte tokens for the rest."""
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        [line.replace(" ", "▁") for line in CORPUS[:1]],
        trainers.BpeTrainer(vocab_size=150, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", *SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer
