"""Neutral events to a response: what it is at the end, and which stream events tell of it on the way.

At most one output item is open. A delta of another kind closes it and opens the next.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pensieved.chat.events import (
    Finish,
    Logprobs,
    StopReason,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from pensieved.http.openai.logprobs import ContentLogprob, content_logprobs
from pensieved.http.openai.outcome import call_id
from pensieved.http.openai.responses.shape import (
    CallItem,
    IncompleteDetails,
    Item,
    MessageItem,
    ReasoningItem,
    ReasoningPart,
    Response,
    TextPart,
    response_usage,
)
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from pensieved.chat.events import Delta
    from pensieved.http.openai.responses.shape import Status

StreamEvent = tuple[str, dict[str, Any]]
"""Type and fields. The fields refer to the response's own objects: encode them before the next event is fed."""

_CUT_OFF = frozenset({StopReason.LENGTH, StopReason.CONTEXT})


class ResponseWriter:
    """Fills `response` in."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._open: Item | None = None
        self._pieces: list[str] = []
        self._logprobs: list[ContentLogprob] = []  # of the open message
        self._pending: list[TokenLogprob] = []  # of tokens whose text did not come yet

    def feed(self, event: Delta | Logprobs | Finish) -> list[StreamEvent]:
        """Add what was said; returns what a stream tells of it."""
        if isinstance(event, Finish):
            return self._finish(event)
        if isinstance(event, Logprobs):
            self._pending += event.tokens
            return []
        return self._said(event)

    def _said(self, event: Delta) -> list[StreamEvent]:
        match event:
            case TextDelta():
                return self._text(event.text)
            case ThinkingDelta():
                return self._reasoning(event.text)
            case ToolCallStart():
                item = CallItem(new_id("fc"), call_id(event.call_id), event.name)
                return [*self._close(), *self._begin(item)]
            case ToolArgumentsDelta():
                return self._delta("response.function_call_arguments.delta", event.json)
            case ToolCallEnd():
                return self._close()

    def _text(self, text: str) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        if not isinstance(self._open, MessageItem):
            events += [*self._close(), *self._begin(MessageItem(new_id("msg")), TextPart())]
        new = content_logprobs(self._pending)
        self._pending = []
        self._logprobs += new
        return [
            *events,
            *self._delta("response.output_text.delta", text, content_index=0, logprobs=new),
        ]

    def _reasoning(self, text: str) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        if not isinstance(self._open, ReasoningItem):
            events += [*self._close(), *self._begin(ReasoningItem(new_id("rs")), ReasoningPart())]
        return [*events, *self._delta("response.reasoning_text.delta", text, content_index=0)]

    def _begin(self, item: Item, part: TextPart | ReasoningPart | None = None) -> list[StreamEvent]:
        self._open, self._pieces, self._logprobs = item, [], []
        self.response.output.append(item)
        events: list[StreamEvent] = [
            ("response.output_item.added", {"output_index": self._index, "item": item})
        ]
        if part is not None:
            events.append(
                ("response.content_part.added", {**self._place(item), "content_index": 0, "part": part})
            )
        return events

    def _delta(self, kind: str, text: str, **fields: Any) -> list[StreamEvent]:
        assert self._open is not None  # noqa: S101  for the type checker: a delta follows a start
        self._pieces.append(text)
        return [(kind, {**self._place(self._open), "delta": text, **fields})]

    def _close(self, status: Status = "completed") -> list[StreamEvent]:
        """End the open item, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return []
        item.status = status
        text, place = "".join(self._pieces), self._place(item)
        done: StreamEvent = ("response.output_item.done", {"output_index": self._index, "item": item})
        match item:
            case CallItem():
                item.arguments = text
                arguments = {**place, "name": item.name, "arguments": text}
                return [("response.function_call_arguments.done", arguments), done]
            case MessageItem():
                self._logprobs += content_logprobs(self._pending)
                self._pending = []
                item.content = [TextPart(text, logprobs=self._logprobs)]
                fields = {**place, "content_index": 0, "text": text, "logprobs": self._logprobs}
                return [("response.output_text.done", fields), _part_done(place, item.content[0]), done]
            case ReasoningItem():
                item.content = [ReasoningPart(text)]
                fields = {**place, "content_index": 0, "text": text}
                return [("response.reasoning_text.done", fields), _part_done(place, item.content[0]), done]

    def _finish(self, finish: Finish) -> list[StreamEvent]:
        status: Status = "incomplete" if finish.reason in _CUT_OFF else "completed"
        events = self._close(status)
        response = self.response
        response.status = status
        response.completed_at = int(time.time())
        response.incomplete_details = IncompleteDetails() if status == "incomplete" else None
        response.usage = response_usage(finish.usage)
        return [*events, (f"response.{status}", {"response": response})]

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _place(self, item: Item) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": self._index}


def _part_done(place: dict[str, Any], part: TextPart | ReasoningPart) -> StreamEvent:
    return "response.content_part.done", {**place, "content_index": 0, "part": part}
