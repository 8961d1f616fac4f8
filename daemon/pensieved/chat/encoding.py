"""Text to token ids, at a cost that the context bounds.

Encoding goes through the library's batch call, also for one text: unlike the plain one it lets other threads run
meanwhile, and it leaves out the offsets that nobody here wants, which makes it nine times as fast. It still takes about
400 bytes of memory for each token. So of a text that can hardly fit, slices are encoded one after the other, and only
until it is certain that it does not fit: what a client sends costs memory and time in proportion to the context, not to
its size. A slice's border may split a token, and the tokenizer may put something before each slice; both together
change the count by a few tokens, for which `_SLACK` is more than enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.errors import RequestError, RequestErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

_WHOLE = 64 * 1024  # bytes of text that are always encoded as a whole
_BYTES_PER_TOKEN = 6  # hardly any text has more of them, so what fits is encoded once
_SLICE = 64 * 1024  # characters
_SLACK = 64  # tokens by which slices may be more than the whole, each


def too_long(tokens: int, most: int, *, at_least: bool = False) -> RequestError:
    """The refusal of a prompt beyond the context, in the words that clients look for."""
    least = "at least " if at_least else ""
    return RequestError(
        RequestErrorKind.TOO_LONG, f"prompt is too long: {least}{tokens} tokens > {most} maximum"
    )


class Encoder:
    """A tokenizer's way from text to ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def ids(self, text: str, *, special: bool, most: int | None = None) -> list[int]:
        """Ids of `text`; `special`: with those that the tokenizer puts around a text.

        Raises:
            RequestError: TOO_LONG, where it is clear early that they are more than `most`. A text that has
                a few too many is encoded like any other.
        """
        if most is not None and not _is_short(text, most):
            least = 0
            for count in self._counts(text):
                least += count - _SLACK
                if least > most:
                    raise too_long(least, most, at_least=True)
        return self._encode(text, special=special)

    def count(self, text: str, *, special: bool, most: int) -> int:
        """How many ids `text` has: exact, unless it is far beyond `most`; then within a few tokens a slice."""
        if _is_short(text, most):
            return len(self._encode(text, special=special))
        return sum(self._counts(text))

    def _counts(self, text: str) -> Iterator[int]:
        for start in range(0, len(text), _SLICE):
            yield len(self._encode(text[start : start + _SLICE], special=False))

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids


def _is_short(text: str, most: int) -> bool:
    """Whether `text` may be encoded as a whole, for a context of `most` tokens."""
    return len(text.encode()) <= max(_WHOLE, _BYTES_PER_TOKEN * most)
