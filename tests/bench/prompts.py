"""The text that every contestant gets: made from a seed, the same in every process, different in every request.

A prompt that came twice would be answered from a prompt cache, so a seed names the run, the round, the part of the
run and the request. Only the parts that measure caches repeat anything.
"""

from __future__ import annotations

import random
from typing import Any

WORDS = [
    "amber",
    "anchor",
    "barn",
    "basket",
    "bridge",
    "candle",
    "canyon",
    "cellar",
    "cloud",
    "coast",
    "cotton",
    "desert",
    "dragon",
    "feather",
    "ferry",
    "forest",
    "harbor",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "lantern",
    "market",
    "meadow",
    "mirror",
    "mountain",
    "needle",
    "ocean",
    "orchard",
    "pepper",
    "pocket",
    "quarry",
    "rabbit",
    "ribbon",
    "saddle",
    "shadow",
    "silver",
    "spring",
    "station",
    "summer",
    "temple",
    "ticket",
    "tunnel",
    "valley",
    "village",
    "wagon",
    "walnut",
    "willow",
    "winter",
]
WORDS_PER_PROMPT = 24
_TASK = "Write a long story in which all of these things appear."


def words(seed: str, count: int) -> str:
    """`count` words; a text as seed gives the same choice in every process and on every machine."""
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def story(seed: str) -> str:
    """What a user asks in the parts that measure throughput."""
    return f"{words(seed, WORDS_PER_PROMPT)}. {_TASK}"


def long_text(tokenizer: Any, seed: str, tokens: int) -> str:
    """A text that is `tokens` tokens long for this `tokenizers.Tokenizer`."""
    encoded = tokenizer.encode(words(seed, tokens), add_special_tokens=False)  # no word is less than a token
    return words(seed, tokens)[: encoded.offsets[tokens - 1][1]]
