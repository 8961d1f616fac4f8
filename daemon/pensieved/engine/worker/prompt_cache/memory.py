"""Which entries are in memory, within how many bytes, and which goes first: the one that was not used for longest."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pensieved.engine.worker.prompt_cache.entry import Entry, Filed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import mlx.core as mx


class Memory:
    """Entries with arrays, the least recently used first.

    Dropping arrays is always safe: whoever works with them holds them.

    Args:
        budget: bytes at most.
        lost: called with an entry that was nowhere but here.
    """

    def __init__(self, budget: int, lost: Callable[[Entry], None]) -> None:
        self.budget = budget
        self.used = 0
        self._lost = lost
        self._entries: OrderedDict[Entry, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, arrays: Sequence[mx.array]) -> None:
        """Hold `entry`'s arrays, and let others go for them."""
        entry.arrays = list(arrays)
        self._entries[entry] = None
        self.used += entry.nbytes
        self.touch(entry)
        self.shed(self.budget)

    def remove(self, entry: Entry) -> None:
        """Let go of an entry's arrays."""
        if entry in self._entries:
            del self._entries[entry]
            self.used -= entry.nbytes
            entry.arrays = None

    def touch(self, entry: Entry) -> None:
        """`entry` was used, and with it all that it continues: those are used at least as recently, always."""
        for each in reversed(entry.lineage()):
            if each in self._entries:
                self._entries.move_to_end(each)

    def shed(self, budget: int) -> None:
        """Let go of entries until no more than `budget` bytes are held."""
        while self.used > budget and self._entries:
            entry = next(iter(self._entries))
            self.remove(entry)
            if entry.filed is Filed.NO:
                self._lost(entry)
