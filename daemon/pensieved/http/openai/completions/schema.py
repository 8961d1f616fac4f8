"""What clients of legacy completions send. Unknown fields are ignored; null means absent."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from pensieved.http.openai.schema import Count, GeneratingFields, Top

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default on this route."""

MOST_ANSWERS = 32
"""Choices of all prompts of one request together."""

TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
TokenIds = list[TokenId]


class CompletionsRequest(GeneratingFields, kw_only=True):
    """POST /v1/completions. `prompt` is a text or token ids, or a list of either."""

    prompt: str | list[str | TokenId | TokenIds]
    max_tokens: Count | None = None
    logprobs: Top | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


completions_decoder = msgspec.json.Decoder(CompletionsRequest)
