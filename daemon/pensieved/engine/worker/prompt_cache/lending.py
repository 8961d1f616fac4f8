"""What was read from disk for one request alone: it has the arrays, instead of a copy of them.

A request starts from a prefix by copying it into room for what follows, which takes as long as reading it does. So what a prefix ends
with is read into such room, at the place where it belongs, and the request takes that over. The entry is on disk alone again
then, as it was before, until the request ends and gives back a copy. Where a second request wants the entry before it is lent,
both copy it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from pensieved.engine.worker.prompt_cache.entry import TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pensieved.engine.worker.prompt_cache.entry import Entry


@dataclass(frozen=True)
class Loan:
    """Arrays of an entry that a request has.

    Attributes:
        entry: whose they are.
        request: who has them.
        used: tokens of the prefix that the request begins with.
        rest: what the entry holds behind those, copied: the request will write over it.
    """

    entry: Entry
    request: int
    used: int
    rest: Sequence[mx.array]

    def whole(self, used: Sequence[mx.array]) -> list[mx.array]:
        """The entry's arrays as they were, given what the request has of them."""
        if self.used == self.entry.end:
            return list(used)
        return [mx.concatenate(list(each), axis=TOKENS) for each in zip(used, self.rest, strict=True)]


class Lending:
    """Who may have which entry's arrays, and who has."""

    def __init__(self) -> None:
        self._offered: dict[Entry, int] = {}  # what one request asked for, and nobody else
        self._lent: dict[Entry, Loan] = {}

    def offer(self, entry: Entry, request: int) -> None:
        """`entry`, of plain caches, is being read for this request, with room around what it holds."""
        self._offered[entry] = request

    def share(self, entries: Iterable[Entry]) -> None:
        """These are wanted by others, too: nobody may have their arrays, which are made such as hold their own tokens only."""
        for entry in entries:
            if self._offered.pop(entry, None) is not None and entry.arrays is not None:
                entry.arrays = _without_room(entry, entry.arrays)

    def read(self, entry: Entry, arrays: list[mx.array], *, room: bool) -> list[mx.array]:
        """What `entry` is to hold of what was read for it, if it was with room: all of that only if it is still for one request alone."""
        self._lent.pop(entry, None)  # whoever had it need not give it back, or went without
        return _without_room(entry, arrays) if room and entry not in self._offered else arrays

    def lend(self, entry: Entry, request: int, used: int) -> list[mx.array] | None:
        """The arrays of an entry, if they were offered to this request, which begins with `used` tokens of the prefix."""
        if entry.arrays is None or self._offered.get(entry) != request:
            return None
        del self._offered[entry]
        rest = [mx.contiguous(array[:, :, used : entry.end]) for array in entry.arrays]
        mx.eval(rest)
        self._lent[entry] = Loan(entry, request, used, rest)
        return entry.arrays

    def returned(self, request: int) -> Loan | None:
        """What was lent to this request, once."""
        loan = next((each for each in self._lent.values() if each.request == request), None)
        return self._lent.pop(loan.entry) if loan is not None else None

    def forget(self, entry: Entry) -> None:
        """There is no such entry any more."""
        self._offered.pop(entry, None)
        self._lent.pop(entry, None)


def _without_room(entry: Entry, arrays: Iterable[mx.array]) -> list[mx.array]:
    return [array[:, :, entry.start : entry.end] for array in arrays]
