"""What the cache holds: the KV cache of some tokens that follow others."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import mlx.core as mx

Tokens = np.ndarray
"""Token ids, uint32, one axis."""
TOKENS = 2
"""The axis of a plain KV cache that counts tokens."""


class Filed(Enum):
    """Whether an entry is on disk."""

    NO = auto()
    COMING = auto()  # the writer has it
    YES = auto()


@dataclass(eq=False)
class Entry:
    """The KV cache of `tokens[start:]`, given that `tokens[:start]` came before.

    It is in memory, on disk, or both.

    Attributes:
        tokens: the whole prefix.
        start: how many of them are not its own.
        form: how its arrays make caches (see `forms`).
        arrays: the cache; None while it is on disk alone.
        nbytes: their size.
        filed: whether it is on disk.
        path: where, then.
        parent: the entry that it continues, at `start`.
        children: those that continue it, by where they do and with which token.
        gone: it was forgotten; who still has it must not bring it back.
    """

    tokens: Tokens
    start: int
    form: bytes
    arrays: list[mx.array] | None
    nbytes: int
    filed: Filed = Filed.NO
    path: Path | None = None
    parent: Entry | None = None
    children: dict[tuple[int, int], list[Entry]] = field(default_factory=dict)
    gone: bool = False

    @property
    def end(self) -> int:
        """Length of the prefix."""
        return len(self.tokens)

    @property
    def place(self) -> tuple[int, int]:
        """Where it is among its parent's children."""
        return self.start, int(self.tokens[self.start])

    def lineage(self) -> list[Entry]:
        """Those it continues, the first one first, and itself."""
        found: list[Entry] = []
        entry: Entry | None = self
        while entry is not None and entry.end:
            found.append(entry)
            entry = entry.parent
        return found[::-1]

    def family(self) -> Iterator[Entry]:
        """Itself and all that continue it."""
        waiting = [self]
        while waiting:
            entry = waiting.pop()
            yield entry
            for children in entry.children.values():
                waiting += children


def as_tokens(ids: Sequence[int]) -> Tokens:
    """`ids` in the form in which they are compared."""
    return np.array(ids, dtype=np.uint32)


def agreeing(one: Tokens, other: Tokens, start: int = 0) -> int:
    """How many tokens both begin with, given that they agree up to `start`."""
    length = min(len(one), len(other))
    differing = one[start:length] != other[start:length]
    first = int(differing.argmax()) if differing.size else 0
    return start + first if differing.size and differing[first] else length
