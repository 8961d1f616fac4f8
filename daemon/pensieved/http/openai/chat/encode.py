"""Neutral events to one chat completion object."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from pensieved.chat.events import (
    Finish,
    Logprobs,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolArgumentsDelta,
    ToolCallStart,
)
from pensieved.http.openai.logprobs import ContentLogprob, content_logprobs
from pensieved.http.openai.outcome import FINISH_REASONS, CompletionUsage, call_id, completion_usage
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from pensieved.http.openai.choices import Choice, Choices


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function
    type: Literal["function"] = "function"


class _Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`content` and `refusal` are always there; what follows, only where the model said such a thing."""

    role: str
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class ChoiceLogprobs(msgspec.Struct):
    """Log-probabilities of a choice's tokens."""

    content: list[ContentLogprob]
    refusal: str | None = None


class _Choice(msgspec.Struct):
    index: int
    message: _Message
    logprobs: ChoiceLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[_Choice]
    usage: CompletionUsage
    system_fingerprint: str | None = None


class _Said:
    """What one choice has said so far."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: dict[str, tuple[str, list[str]]] = {}
        self._logprobs: list[TokenLogprob] = []
        self.finish: Finish | None = None

    def add(self, event: object) -> None:
        match event:
            case TextDelta():
                self._text.append(event.text)
            case ThinkingDelta():
                self._thinking.append(event.text)
            case ToolCallStart():
                self._calls[event.call_id] = (event.name, [])
            case ToolArgumentsDelta():
                self._calls[event.call_id][1].append(event.json)
            case Logprobs():
                self._logprobs += event.tokens
            case Finish():
                self.finish = event
            case _:
                pass

    def message(self) -> _Message:
        calls = [
            _ToolCall(call_id(neutral), _Function(name, "".join(pieces)))
            for neutral, (name, pieces) in self._calls.items()
        ]
        return _Message(
            role="assistant",
            content="".join(self._text) if self._text or not calls else None,
            refusal=None,
            reasoning_content="".join(self._thinking) or None,
            tool_calls=calls or None,
        )

    def logprobs(self) -> ChoiceLogprobs:
        return ChoiceLogprobs(content_logprobs(self._logprobs))


class ChatBuilder:
    """Collects the events of all choices. `model` is the name that was asked for."""

    def __init__(self, model: str, choices: Choices, *, logprobs: bool) -> None:
        self._model = model
        self._per_prompt = choices.per_prompt
        self._said = [_Said() for _ in range(len(choices))]
        self._logprobs = logprobs

    def add(self, choice: Choice) -> None:
        """One event."""
        self._said[choice.index].add(choice.event)

    def result(self) -> bytes:
        """The completion as JSON, once every choice has finished."""
        finishes = {index: said.finish for index, said in enumerate(self._said) if said.finish is not None}
        return msgspec.json.encode(
            ChatCompletion(
                id=new_id("chatcmpl", "-"),
                created=int(time.time()),
                model=self._model,
                choices=[
                    _Choice(
                        index,
                        self._said[index].message(),
                        self._said[index].logprobs() if self._logprobs else None,
                        FINISH_REASONS[finish.reason],
                    )
                    for index, finish in finishes.items()
                ],
                usage=completion_usage(
                    {index: finish.usage for index, finish in finishes.items()}, self._per_prompt
                ),
            )
        )
