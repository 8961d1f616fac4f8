"""Entries as a tree of spans: for caches that can be cut anywhere.

A span hangs on another at any position inside of it. Where two conversations part, the second one's span begins right
there, and nothing is split, neither here nor on disk: what both share is held once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pensieved.engine.worker.prompt_cache.entry import Entry, Filed, Tokens, agreeing, as_tokens

SHOWN = 8
"""Tokens that are told of where a prompt leaves what is known."""


@dataclass(frozen=True)
class Match:
    """How far a prompt is known.

    Attributes:
        entry: the last of those that hold it, wherever they are; None where there is none.
        usable: tokens that the lineage of `entry` has of it.
        here: the same of what is in memory.
        at_hand: tokens that can be taken from there at once.
        matched: tokens that agree with anything held.
        instead: what is held in place of the tokens after those; empty where nothing is, or the prompt ends.
    """

    entry: Entry | None
    usable: int
    here: Entry | None
    at_hand: int
    matched: int
    instead: tuple[int, ...] = ()


class Spans:
    """All spans."""

    cuts = True
    """Whether a part of what is held can be taken, and an entry can continue another."""

    def __init__(self) -> None:
        self._root = Entry(as_tokens(()), 0, b"", [], 0, Filed.YES)

    def match(self, tokens: Tokens) -> Match:
        """How far `tokens` are known."""
        best = here = self._root
        reach = at_hand = 0
        waiting = [(self._root, 0)]
        present = {self._root}
        while waiting:
            entry, reached = waiting.pop()
            for child in _continuing(entry, tokens, reached):
                far = agreeing(child.tokens, tokens, child.start)
                waiting.append((child, far))
                if far > reach:
                    best, reach = child, far
                if entry in present and child.arrays is not None:
                    present.add(child)
                    if far > at_hand:
                        here, at_hand = child, far
        instead = _instead(best, reach) if reach < len(tokens) else ()
        root = self._root
        return Match(
            best if best is not root else None,
            reach,
            here if here is not root else None,
            at_hand,
            reach,
            instead,
        )

    def attach(self, entry: Entry) -> bool:
        """Take in `entry`; False where what it continues is not there, or it is known already."""
        found = self.match(entry.tokens)
        if found.usable >= entry.end:
            return False
        in_memory = entry.arrays is not None
        parent, reach = (found.here, found.at_hand) if in_memory else (found.entry, found.usable)
        if reach < entry.start:
            return False
        parent = parent or self._root
        while parent.start >= entry.start and parent.parent is not None:
            parent = parent.parent
        entry.parent = parent
        parent.children.setdefault(entry.place, []).append(entry)
        return True

    def detach(self, entry: Entry) -> list[Entry]:
        """Forget `entry` and all that continue it; returns them."""
        parent = entry.parent
        if parent is None:
            return []
        siblings = parent.children[entry.place]
        siblings.remove(entry)
        if not siblings:
            del parent.children[entry.place]
        entry.parent = None
        return list(entry.family())


def _continuing(entry: Entry, tokens: Tokens, reached: int) -> list[Entry]:
    """Children that begin with the prompt's own token, where the prompt still agrees with `entry`."""
    return [
        child
        for (start, token), children in entry.children.items()
        if start <= reached and start < len(tokens) and token == tokens[start]
        for child in children
    ]


def _instead(entry: Entry, reach: int) -> tuple[int, ...]:
    """What is held after `reach`, if the prompt went on differently there."""
    if reach >= entry.end:
        latest = [children[-1] for (start, _), children in entry.children.items() if start == reach]
        if not latest:
            return ()
        entry = latest[-1]
    return tuple(int(token) for token in entry.tokens[reach : reach + SHOWN])
