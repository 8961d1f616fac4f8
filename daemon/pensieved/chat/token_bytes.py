"""The bytes that each token stands for, by itself.

Text cannot say that: a token may hold part of a character. Tokenizers write bytes in one of two ways. Byte-level
ones (GPT-2 and its many heirs) spell each byte as a printable letter; SentencePiece-style ones have characters,
with ▁ for the space, and a token ``<0x41>`` for each single byte. Which it is, the decoder says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


class TokenBytes:
    """Bytes of single tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {
            number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()
        }
        decoder = tokenizer.decoder
        is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        self._letters = _letters() if is_byte_level else None

    def __call__(self, token: int) -> bytes:
        """The bytes of `token`; an added one, special or not, is its name. Ids beyond the vocabulary have none."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token) or ""
        if self._letters is not None:
            return b"".join(self._letters.get(letter) or letter.encode() for letter in piece)
        single = _BYTE.fullmatch(piece)
        return bytes([int(single[1], 16)]) if single else piece.replace(_SPACE, " ").encode()


def _letters() -> dict[str, bytes]:
    """GPT-2's alphabet: printable Latin-1 characters are themselves, other bytes take letters from U+0100 on.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py (bytes_to_unicode)
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)
    }
