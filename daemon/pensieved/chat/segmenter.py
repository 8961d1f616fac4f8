"""One answer's ids to events, through a pipeline of stages.

    ids → Detokenizer → text → reasoning → tool calls → stop strings → deltas

A stage takes deltas and gives deltas, holding back what it cannot decide yet. Each stage sees text without
token borders, so whatever a stage does is the same for any split of the ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pensieved.chat.events import Delta, TextDelta, ThinkingDelta, ToolArgumentsDelta, ToolCallEnd
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


class ReasoningStage(Stage, Protocol):
    """A stage that tells reasoning from answer."""

    inside: bool


class CallingStage(Stage, Protocol):
    """A stage that finds tool calls."""

    over: bool


class Segmenter:
    """Ids of one answer to its deltas.

    Args:
        detokenizer: a fresh one.
        stops: stop strings; the answer ends before the first that is complete.
        thinking: for models that reason.
        tools: where tools are offered; the same stage as `thinking`, where one does both.
        thinking_budget: ids of reasoning after which `overthought` is true.

    Attributes:
        ids: those the answer is made of so far, the one that completed a stop string included.
        calls: complete tool calls.
        thought: how many ids were reasoning.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Iterable[str] = (),
        *,
        thinking: ReasoningStage | None = None,
        tools: CallingStage | None = None,
        thinking_budget: int | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        strings = tuple(stops)
        self._thinking = thinking
        self._tools = tools
        self._scanner = StopScanner(StopStrings(strings)) if strings else None
        stages: tuple[Stage | None, ...] = (thinking, tools, self._scanner)
        self._stages: tuple[Stage, ...] = tuple(stage for stage in dict.fromkeys(stages) if stage is not None)
        self._budget = thinking_budget
        self.ids: list[int] = []
        self.calls = 0
        self.thought = 0

    @property
    def consumed(self) -> int:
        """How many ids the answer is made of."""
        return len(self.ids)

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer."""
        return self._scanner.matched if self._scanner else None

    @property
    def over(self) -> bool:
        """The answer is complete, whatever else may come."""
        return self.stopped_by is not None or (self._tools is not None and self._tools.over)

    @property
    def overthought(self) -> bool:
        """The model still reasons, and should not."""
        return (
            self._budget is not None
            and self.thought >= self._budget
            and self._thinking is not None
            and self._thinking.inside
        )

    def feed(self, ids: Sequence[int], *, forced: bool = False) -> list[Delta]:
        """Add ids, up to where the answer is over or overthought; text that arrives together comes out as one delta.

        `forced` ids were put into the model's mouth to end its reasoning.
        """
        if not self._stages:
            self.ids += ids
            return self._through(self._detokenizer.feed(ids))
        deltas: list[Delta] = []
        for number in ids:  # one by one, for an exact count of the ids that the answer is made of
            if self.over or (self.overthought and not forced):
                break
            self.ids.append(number)
            deltas += self._through(self._detokenizer.feed((number,)))
            self.thought += self._thinking is not None and self._thinking.inside
        return self._counted(_joined(deltas))

    def finish(self) -> list[Delta]:
        """Everything still held back; call once, after the last id."""
        deltas = [] if self.over else self._through(self._detokenizer.flush())
        for index, stage in enumerate(self._stages):
            rest = stage.flush()
            for later in self._stages[index + 1 :]:
                rest = later.feed(rest)
            deltas += rest
        return self._counted(_joined(deltas))

    def _through(self, text: str) -> list[Delta]:
        deltas: list[Delta] = [TextDelta(text)] if text else []
        for stage in self._stages:
            deltas = stage.feed(deltas)
        return deltas

    def _counted(self, deltas: list[Delta]) -> list[Delta]:
        self.calls += sum(isinstance(delta, ToolCallEnd) for delta in deltas)
        return deltas


def _joined(deltas: Iterable[Delta]) -> list[Delta]:
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if isinstance(delta, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + delta.text)
        elif isinstance(delta, ThinkingDelta) and isinstance(last, ThinkingDelta):
            joined[-1] = ThinkingDelta(last.text + delta.text)
        elif isinstance(delta, ToolArgumentsDelta) and isinstance(last, ToolArgumentsDelta):
            joined[-1] = ToolArgumentsDelta(last.call_id, last.json + delta.json)
        else:
            joined.append(delta)
    return joined
