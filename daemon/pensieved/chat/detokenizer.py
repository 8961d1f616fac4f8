"""Ids to text while the ids are still coming.

Text cannot be decoded id by id: a character may span several tokens, and many decoders treat the first
token of a text differently (a leading space is stripped). So a short window of ids is decoded again with
each new id, and what it adds to the text already given out is new. The window starts at the ids that made
the previous step's text, which is enough context for every decoder, so the cost is linear in the output.

What may still change is held back: an incomplete character, which decodes to U+FFFD at the end of the
window, and a run of byte tokens (``<0xE2>``), which SentencePiece-style decoders judge as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"

# A model that writes broken UTF-8 keeps the end of the window undecided; beyond this many ids the window
# moves on anyway. An incomplete character is at most 3 bytes, so the last 8 ids decide on their own.
_LONGEST_WINDOW = 32
_KEPT = 8


class Vocabulary:
    """What detokenizing needs to know of a tokenizer, worked out once.

    Args:
        tokenizer: decodes ids.
        visible: texts of which special tokens are part, such as a tool call's markers. Those tokens become
            text like any other; the remaining special ones never do.
    """

    def __init__(self, tokenizer: Tokenizer, visible: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        shown = tuple(visible)
        self.special_ids = frozenset(
            number
            for number, token in added.items()
            if token.special and not any(token.content in text for text in shown)
        )
        byte_ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        letter = byte_ids[ord("A")]
        falls_back = letter is not None and tokenizer.decode([letter]) == "A"
        self.byte_ids = frozenset(number for number in byte_ids if falls_back and number is not None)

    def decode(self, ids: Sequence[int]) -> str:
        """All of `ids` at once, special tokens left out unless they are visible."""
        shown = [number for number in ids if number not in self.special_ids]
        return self.tokenizer.decode(shown, skip_special_tokens=False)


class Detokenizer:
    """One answer's ids to text: any split of the ids gives the same text as decoding all of them at once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._window: list[int] = []
        self._fresh = 0  # where in the window the ids start whose text is not complete yet
        self._given = 0  # characters of the window's text that were given out

    def feed(self, ids: Sequence[int]) -> str:
        """Add ids; returns the text that is now certain."""
        new = [number for number in ids if number not in self._vocabulary.special_ids]
        self._window += new
        if not new or self._window[-1] in self._vocabulary.byte_ids:
            return ""
        text = self._vocabulary.decode(self._window)
        whole = not text.endswith(_REPLACEMENT)
        stable = text if whole else text[:-1]
        fresh_text = stable[self._given :]
        self._given = max(self._given, len(stable))
        if whole or len(self._window) > _LONGEST_WINDOW:
            self._slide(whole=whole)
        return fresh_text

    def flush(self) -> str:
        """The rest, when no more ids will come."""
        text = self._vocabulary.decode(self._window)
        rest = text[self._given :]
        self._given = len(text)
        return rest

    def _slide(self, *, whole: bool) -> None:
        """Forget ids whose text can no longer change nor matter to what follows."""
        start = self._fresh if whole else len(self._window) - _KEPT
        self._window = self._window[start:]
        text = self._vocabulary.decode(self._window)
        self._given = len(text if whole else text.removesuffix(_REPLACEMENT))
        self._fresh = len(self._window) if whole else 0
