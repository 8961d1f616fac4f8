"""The neutral event stream: what a generation says, in no dialect's words.

One answer is a sequence of deltas, then exactly one `Finish` or `Failure`. Dialects encode these
events and know nothing of the engine.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class StopReason(StrEnum):
    """Why an answer ended."""

    END = "end"  # the model ended its turn
    LENGTH = "length"  # max_tokens reached
    CONTEXT = "context"  # the context window is full
    STOP_SEQUENCE = "stop_sequence"  # one of the request's stop strings was produced
    TOOL_USE = "tool_use"  # the model called at least one tool


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request.

    `input_tokens` counts the whole prompt, `cached_tokens` the part of it reused, `created_tokens` what of the rest lies before
    the last place that the client marked; `reasoning_tokens` is the part of the output up to the token with which the
    last piece of reasoning arrived.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    created_tokens: int = 0


class TextDelta(msgspec.Struct, frozen=True, tag="text"):
    """More answer text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking"):
    """More reasoning text."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True, tag="tool_start"):
    """A tool call begins. `call_id` is unique; dialects put their own prefix before it."""

    call_id: str
    name: str


class ToolArgumentsDelta(msgspec.Struct, frozen=True, tag="tool_arguments"):
    """More of the current call's arguments, as a piece of JSON text."""

    call_id: str
    json: str


class ToolCallEnd(msgspec.Struct, frozen=True, tag="tool_end"):
    """The current tool call is complete. A call that is cut off, or goes wrong midway, has none."""

    call_id: str


class Alternative(msgspec.Struct, frozen=True):
    """A token that could have stood somewhere: its bytes and its log-probability."""

    raw: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer: its bytes, its log-probability, and the likeliest tokens in its place, best first."""

    raw: bytes
    logprob: float
    likeliest: tuple[Alternative, ...] = ()


class Logprobs(msgspec.Struct, frozen=True, tag="logprobs"):
    """The answer's next tokens, where a request asked for them; the deltas they make follow, now or later."""

    tokens: tuple[TokenLogprob, ...]


class Idle(msgspec.Struct, frozen=True, tag="idle"):
    """Nothing happened for a while: a moment for a ping, and for noticing that the client went away."""


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """The answer is complete."""

    reason: StopReason
    usage: Usage
    stop_sequence: str | None = None


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The answer cannot be completed; `kind` is a value of `errors.RequestErrorKind`, `retry_after` in seconds."""

    kind: str
    message: str
    retry_after: float | None = None


Delta = TextDelta | ThinkingDelta | ToolCallStart | ToolArgumentsDelta | ToolCallEnd
Event = Delta | Logprobs | Idle | Finish | Failure
