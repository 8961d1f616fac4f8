"""One answer's ids to events, through a pipeline of stages.

    ids → Detokenizer → text → stage → stage → … → deltas

A stage takes deltas and gives deltas, holding back what it cannot decide yet. Stop strings are the first
stage; parsers that cut text into thinking and tool calls are further ones behind it. Each stage sees text
without token borders, so whatever a stage does is the same for any split of the ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pensieved.chat.events import Delta, TextDelta
from pensieved.chat.stops import StopScanner, StopStrings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pensieved.chat.detokenizer import Detokenizer


class Stage(Protocol):
    """A step of the pipeline."""

    def feed(self, deltas: Sequence[Delta]) -> list[Delta]:
        """What is certain after `deltas`."""

    def flush(self) -> list[Delta]:
        """What was held back, now that nothing more will come."""


class Segmenter:
    """Ids of one answer to its deltas.

    Args:
        detokenizer: a fresh one.
        stops: stop strings; the answer ends before the first that is complete.

    Attributes:
        consumed: how many ids the answer is made of, the one that completed a stop string included.
    """

    def __init__(self, detokenizer: Detokenizer, stops: Iterable[str] = ()) -> None:
        self._detokenizer = detokenizer
        strings = tuple(stops)
        self._scanner = StopScanner(StopStrings(strings)) if strings else None
        self._stages: tuple[Stage, ...] = (self._scanner,) if self._scanner else ()
        self.consumed = 0

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer."""
        return self._scanner.matched if self._scanner else None

    def feed(self, ids: Sequence[int]) -> list[Delta]:
        """Add ids; text that arrives together comes out as one delta."""
        if self._scanner is None:
            self.consumed += len(ids)
            return self._through(self._detokenizer.feed(ids))
        deltas: list[Delta] = []
        for number in ids:  # one by one, for an exact count of the ids that a stop string ended
            if self.stopped_by is not None:
                break
            self.consumed += 1
            deltas += self._through(self._detokenizer.feed((number,)))
        return _joined(deltas)

    def finish(self) -> list[Delta]:
        """Everything still held back; call once, after the last id."""
        deltas = [] if self.stopped_by is not None else self._through(self._detokenizer.flush())
        for index, stage in enumerate(self._stages):
            rest = stage.flush()
            for later in self._stages[index + 1 :]:
                rest = later.feed(rest)
            deltas += rest
        return _joined(deltas)

    def _through(self, text: str) -> list[Delta]:
        deltas: list[Delta] = [TextDelta(text)] if text else []
        for stage in self._stages:
            deltas = stage.feed(deltas)
        return deltas


def _joined(deltas: Iterable[Delta]) -> list[Delta]:
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if isinstance(delta, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + delta.text)
        else:
            joined.append(delta)
    return joined
