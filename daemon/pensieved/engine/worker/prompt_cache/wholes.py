"""Entries that are of use as a whole only: for caches that cannot be cut.

A sliding window forgets, a state-space layer keeps nothing of single tokens: what is held for a prefix says nothing about a
shorter one. So there are few entries, taken where prompts are likely to part, and a prompt must begin with all of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.engine.worker.prompt_cache.entry import agreeing
from pensieved.engine.worker.prompt_cache.spans import SHOWN, Match

if TYPE_CHECKING:
    from pensieved.engine.worker.prompt_cache.entry import Entry, Tokens


class Wholes:
    """All of them."""

    cuts = False
    """See `Spans.cuts`."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def match(self, tokens: Tokens) -> Match:
        """How far `tokens` are known: the longest entry that they begin with."""
        found: Entry | None = None
        here: Entry | None = None
        nearest: Entry | None = None
        matched = 0
        for entry in self._entries:
            same = agreeing(entry.tokens, tokens)
            if same == entry.end and (found is None or same > found.end):
                found = entry
            if same == entry.end and entry.arrays is not None and (here is None or same > here.end):
                here = entry
            if nearest is None or same > matched or (same == matched and same < entry.end):
                nearest, matched = entry, same
        instead = nearest.tokens[matched : matched + SHOWN] if nearest and matched < len(tokens) else ()
        return Match(
            found,
            found.end if found else 0,
            here,
            here.end if here else 0,
            matched,
            tuple(int(token) for token in instead),
        )

    def attach(self, entry: Entry) -> bool:
        """Take in `entry`; False where it is known already."""
        known = self.match(entry.tokens)
        if entry.start or known.usable == entry.end:
            return False
        self._entries.append(entry)
        return True

    def detach(self, entry: Entry) -> list[Entry]:
        """Forget `entry`; returns what was forgotten."""
        if entry not in self._entries:
            return []
        self._entries.remove(entry)
        return [entry]
