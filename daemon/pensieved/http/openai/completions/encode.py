"""Neutral events to legacy completions: as one object, or as pieces of one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from pensieved.chat.events import Finish, Logprobs, TextDelta, TokenLogprob, Usage
from pensieved.http.openai.choices import Choice
from pensieved.http.openai.errors import error_line
from pensieved.http.openai.logprobs import LegacyLogprobs, LegacyWriter
from pensieved.http.openai.outcome import FINISH_REASONS, CompletionUsage, completion_usage
from pensieved.http.openai.respond import DONE, PING
from pensieved.http.record import new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.errors import RequestError
    from pensieved.http.openai.choices import ChoiceEvent, Choices

_json = msgspec.json.Encoder().encode


class _Choice(msgspec.Struct):
    text: str
    index: int
    logprobs: LegacyLogprobs | None
    finish_reason: str | None


class TextCompletion(msgspec.Struct, kw_only=True):
    """Also each piece of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[_Choice]
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None


class CompletionsStream:
    """Encodes the events of all choices as they come.

    Args:
        model: the name that was asked for.
        choices: where the events come from.
        echoes: for each choice, the text that precedes its answer.
        logprobs: how many likeliest tokens to show, or None where no log-probabilities were asked for.
        include_usage: end with a piece that has the token counts.
    """

    def __init__(
        self,
        model: str,
        choices: Choices,
        *,
        echoes: Sequence[str],
        logprobs: int | None,
        include_usage: bool,
    ) -> None:
        self._id = new_id("cmpl", "-")
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage
        self._per_prompt = choices.per_prompt
        self._echoes = dict(enumerate(echoes))
        self._writers = [LegacyWriter(logprobs) for _ in echoes] if logprobs is not None else None
        self._tokens: list[list[TokenLogprob]] = [[] for _ in echoes]
        self._usages: dict[int, Usage] = {}

    def encode(self, event: ChoiceEvent, prompt_usage: Usage | None) -> bytes:  # noqa: ARG002  pieces say no counts
        """Whole pieces."""
        if not isinstance(event, Choice):
            return b""
        index = event.index
        match event.event:
            case TextDelta(text=text):
                return self._piece(index, self._echoes.pop(index, "") + text)
            case Logprobs(tokens=tokens):
                self._tokens[index] += tokens
                return b""
            case Finish() as finish:
                self._usages[index] = finish.usage
                last = self._piece(index, self._echoes.pop(index, ""), FINISH_REASONS[finish.reason])
                return last + self._end() if len(self._usages) == len(self._tokens) else last
            case _:
                return b""

    def ping(self) -> bytes:
        """Allowed anywhere."""
        return PING

    def error(self, error: RequestError) -> bytes:
        """Ends the stream; no `[DONE]` follows, since it is not."""
        return error_line(error)

    def _piece(self, index: int, text: str, finish_reason: str | None = None) -> bytes:
        logprobs = None
        if self._writers is not None:
            tokens, self._tokens[index] = self._tokens[index], []
            logprobs = self._writers[index].write(tokens)
        return self._line([_Choice(text, index, logprobs, finish_reason)])

    def _end(self) -> bytes:
        if not self._include_usage:
            return DONE
        return self._line([], completion_usage(self._usages, self._per_prompt)) + DONE

    def _line(self, choices: list[_Choice], usage: CompletionUsage | None = None) -> bytes:
        piece = TextCompletion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )
        return b"data: " + _json(piece) + b"\n\n"


class CompletionsBuilder:
    """Collects the events of all choices. The arguments are those of `CompletionsStream`."""

    def __init__(self, model: str, choices: Choices, *, echoes: Sequence[str], logprobs: int | None) -> None:
        self._model = model
        self._per_prompt = choices.per_prompt
        self._texts = [[echo] for echo in echoes]
        self._logprobs = logprobs
        self._tokens: list[list[TokenLogprob]] = [[] for _ in echoes]
        self._finishes: dict[int, Finish] = {}

    def add(self, choice: Choice) -> None:
        """One event."""
        match choice.event:
            case TextDelta(text=text):
                self._texts[choice.index].append(text)
            case Logprobs(tokens=tokens):
                self._tokens[choice.index] += tokens
            case Finish() as finish:
                self._finishes[choice.index] = finish
            case _:
                pass

    def result(self) -> bytes:
        """The completion as JSON, once every choice has finished."""
        usages = {index: finish.usage for index, finish in self._finishes.items()}
        return _json(
            TextCompletion(
                id=new_id("cmpl", "-"),
                created=int(time.time()),
                model=self._model,
                choices=[self._choice(index) for index in range(len(self._texts))],
                usage=completion_usage(usages, self._per_prompt),
            )
        )

    def _choice(self, index: int) -> _Choice:
        logprobs = None
        if self._logprobs is not None:
            logprobs = LegacyWriter(self._logprobs).write(self._tokens[index])
        reason = FINISH_REASONS[self._finishes[index].reason]
        return _Choice("".join(self._texts[index]), index, logprobs, reason)
