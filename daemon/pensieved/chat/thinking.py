"""The segmenter stage that tells reasoning from answer.

A model that reasons does so first, between two markers (``<think>``, ``</think>``); many templates write the
first marker into the prompt. A marker later in the answer is text: someone may be asking about markers. The
line breaks that stand inside and after the markers belong to neither side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.callfeed import tail_that_begins
from pensieved.chat.events import Delta, TextDelta, ThinkingDelta

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPACE = " \t\r\n"


class ThinkMarkers(msgspec.Struct, frozen=True):
    """What a model writes around its reasoning."""

    start: str
    end: str

    def opened_by(self, prompt_end: str) -> bool:
        """Whether a prompt that ends like this leaves the model to reason."""
        before, found, after = prompt_end.rpartition(self.start)
        del before
        return bool(found) and not after.strip(_SPACE)

    @property
    def closing(self) -> str:
        """What ends the reasoning when it has to."""
        return f"\n{self.end}\n\n"


class ThinkingStage:
    """Text to reasoning and text.

    Args:
        markers: the model's.
        opened: the prompt ends within reasoning.

    Attributes:
        inside: the model is reasoning.
    """

    def __init__(self, markers: ThinkMarkers, *, opened: bool) -> None:
        self._markers = markers
        self._held = ""
        self._began = False  # reasoning has text
        self._after = False  # reasoning is over, and the answer has no text yet
        self._decided = opened
        self.inside = opened

    def feed(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Text to reasoning and text; other deltas pass."""
        passed: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, TextDelta):
                self._held += delta.text
                self._decide(ended=False)
                passed += self._read(ended=False)
            else:
                passed.append(delta)
        return passed

    def flush(self) -> list[Delta]:
        """What was held back."""
        self._decide(ended=True)
        return self._read(ended=True)

    def _decide(self, *, ended: bool) -> None:
        """Whether the answer begins with reasoning."""
        if self._decided:
            return
        start, text = self._markers.start, self._held.lstrip(_SPACE)
        if text.startswith(start):
            self._decided = self.inside = True
            self._held = text[len(start) :]
        else:
            self._decided = ended or not start.startswith(text)

    def _read(self, *, ended: bool) -> list[Delta]:
        if not self._decided:
            return []
        return self._reasoning(ended=ended) if self.inside else self._answer()

    def _reasoning(self, *, ended: bool) -> list[Delta]:
        thought, found, rest = self._held.partition(self._markers.end)
        if found:
            self._held, self.inside, self._after = rest, False, True
            return self._thought(thought.rstrip(_SPACE)) + self._answer()
        keep = tail_that_begins(self._held, (self._markers.end,))
        safe = self._held[: len(self._held) - keep].rstrip(_SPACE)
        if ended:
            safe = self._held.rstrip(_SPACE)
        self._held = self._held[len(safe) :]
        return self._thought(safe)

    def _thought(self, text: str) -> list[Delta]:
        if not self._began:
            text = text.lstrip("\r\n")
        self._began = self._began or bool(text)
        return [ThinkingDelta(text)] if text else []

    def _answer(self) -> list[Delta]:
        text = self._held.lstrip("\r\n") if self._after else self._held
        self._after = self._after and not text
        self._held = ""
        return [TextDelta(text)] if text else []
