"""Log-probabilities of tokens as OpenAI shows them."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pensieved.chat.events import Alternative, TokenLogprob


class TopLogprob(msgspec.Struct):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(msgspec.Struct):
    """A token of the answer; `bytes` is exact where a token is only part of a character."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class LegacyLogprobs(msgspec.Struct):
    """The parallel lists of legacy completions. `text_offset` counts characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


def content_logprobs(tokens: Iterable[TokenLogprob]) -> list[ContentLogprob]:
    """For chat completions and responses."""
    return [
        ContentLogprob(
            token_text(token.raw), token.logprob, list(token.raw), [_top(each) for each in token.likeliest]
        )
        for token in tokens
    ]


def _top(token: Alternative) -> TopLogprob:
    return TopLogprob(token_text(token.raw), token.logprob, list(token.raw))


def token_text(raw: bytes) -> str:
    r"""A token's text; bytes that are no whole characters are shown as ``\xe2\x80``, as OpenAI does."""
    return raw.decode(errors="backslashreplace")


class LegacyWriter:
    """Makes legacy lists of one choice, piece by piece.

    Args:
        top: how many likeliest tokens were asked for; at 0 there is no list of them.
        offset: characters before the answer's text (an echoed prompt).
    """

    def __init__(self, top: int, offset: int = 0) -> None:
        self._top = top
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, tokens: Iterable[TokenLogprob]) -> LegacyLogprobs:
        """The lists for the next tokens. The token itself is among its likeliest, where those are shown."""
        written = LegacyLogprobs([], [], [] if self._top else None, [])
        for token in tokens:
            text = token_text(token.raw)
            written.tokens.append(text)
            written.token_logprobs.append(token.logprob)
            written.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(token.raw))
            if written.top_logprobs is not None:
                likeliest = {token_text(each.raw): each.logprob for each in token.likeliest}
                written.top_logprobs.append({**likeliest, text: token.logprob})
        return written
