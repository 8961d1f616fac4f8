"""Stop strings across token borders.

All stop strings of a request are searched at once, character by character, with an Aho-Corasick automaton:
its state is the longest end of the text so far that could still become a stop string, which is exactly
what has to be held back. Cost per character does not depend on how many stop strings there are.

The stop string that is complete first wins (of those complete at the same character, the longest), so the
answer is the same however the text arrives in pieces.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pensieved.chat.events import Delta, TextDelta

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class _Node:
    __slots__ = ("children", "depth", "fallback", "found")

    def __init__(self, depth: int) -> None:
        self.children: dict[str, _Node] = {}
        self.depth = depth
        self.fallback: _Node = self  # the longest shorter end of this text that also starts a stop string
        self.found: str | None = None  # the longest stop string that ends here


class StopStrings:
    """An automaton over `strings`; immutable, so it could be shared."""

    def __init__(self, strings: Iterable[str]) -> None:
        self.root = _Node(0)
        for string in strings:
            self._insert(string)
        self._link()

    def step(self, node: _Node, character: str) -> _Node:
        """The state after one more character."""
        while character not in node.children:
            if node is self.root:
                return node
            node = node.fallback
        return node.children[character]

    def _insert(self, string: str) -> None:
        node = self.root
        for character in string:
            node = node.children.setdefault(character, _Node(node.depth + 1))
        node.found = string

    def _link(self) -> None:
        """Breadth first, so that a node's fallback, being shorter, is complete before the node."""
        queue = deque(self.root.children.values())
        for node in queue:
            node.fallback = self.root
        while queue:
            parent = queue.popleft()
            for character, node in parent.children.items():
                node.fallback = self.step(parent.fallback, character)
                node.found = node.found or node.fallback.found
                queue.append(node)


class StopScanner:
    """A segmenter stage that ends the text where a stop string begins.

    Only the answer's text is searched: a stop string neither ends reasoning or a call, nor reaches across them.
    """

    def __init__(self, strings: StopStrings) -> None:
        self._strings = strings
        self._node = strings.root
        self._held = ""
        self.matched: str | None = None

    def feed(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Pass on what is certain; nothing after a match."""
        passed: list[Delta] = []
        for delta in deltas:
            if self.matched is not None:
                break
            if isinstance(delta, TextDelta):
                text = self._scan(delta.text)
                passed += [TextDelta(text)] if text else []
            else:
                passed += [*self.flush(), delta]
        return passed

    def flush(self) -> list[Delta]:
        """What was held back, when it did not become a stop string."""
        held, self._held, self._node = self._held, "", self._strings.root
        return [TextDelta(held)] if held and self.matched is None else []

    def _scan(self, text: str) -> str:
        text, before = self._held + text, len(self._held)
        node = self._node
        for at in range(before, len(text)):
            node = self._strings.step(node, text[at])
            if node.found is not None:
                self.matched = node.found
                return text[: at + 1 - len(node.found)]
        self._node = node
        self._held = text[len(text) - node.depth :]
        return text[: len(text) - node.depth]
