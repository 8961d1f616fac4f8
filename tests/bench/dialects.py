"""The two dialects, as a client that only measures needs them: the request, and what each event adds to an answer.

Tokens are what the server's own usage says, so that a server that sends several tokens in one event counts like one
that does not. An answer without usage or without its closing event is an error: a stream cut short would otherwise
look like a fast one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question. `messages` alternate user and assistant texts, the user's first; `extra` goes into the body as it is."""

    messages: tuple[str, ...]
    tokens: int
    system: str = ""
    temperature: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def turns(self) -> list[dict[str, str]]:
        """The messages as both dialects write them."""
        roles = ("user", "assistant")
        return [{"role": roles[place % 2], "content": text} for place, text in enumerate(self.messages)]


@dataclass
class Answer:
    """What came back. Times in seconds since the request was sent; `gaps` lie between events that carry text."""

    ttft: float | None = None
    last: float = 0.0
    seconds: float = 0.0
    gaps: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    complete: bool = False
    error: str = ""

    def heard(self, text: str, now: float) -> None:
        """An event with text came at `now`."""
        if self.ttft is None:
            self.ttft = now
        else:
            self.gaps.append(now - self.last)
        self.last = now
        self.text.append(text)

    def fault(self) -> str:
        """Why this is not a whole answer; empty where it is."""
        if self.error:
            return self.error
        if not self.complete:
            return "the stream ended without its closing event"
        return "" if self.output_tokens else "the stream ended without usage"

    @property
    def is_silence(self) -> bool:
        """Whether the model's whole answer is that its turn is over: after a long text of no sense, small ones say so."""
        return self.complete and not self.error and self.prompt_tokens > 0 and not self.output_tokens


class Dialect(Protocol):
    """How to ask and how to read."""

    name: str
    path: str

    def body(self, request: Request, model: str) -> dict[str, Any]:
        """The request's JSON."""

    def read(self, data: bytes, answer: Answer, now: float) -> bool:
        """Add one event to `answer`; whether it carried text."""


class OpenAI:
    """/v1/chat/completions."""

    name = "openai"
    path = "/v1/chat/completions"

    def body(self, request: Request, model: str) -> dict[str, Any]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        return {
            "model": model,
            "messages": [*system, *request.turns()],
            "max_tokens": request.tokens,
            "temperature": request.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **request.extra,
        }

    def read(self, data: bytes, answer: Answer, now: float) -> bool:
        if data == b"[DONE]":
            answer.complete = True
            return False
        event = json.loads(data)
        if event.get("error"):
            answer.error = json.dumps(event["error"])[:200]
        if usage := event.get("usage"):
            answer.output_tokens = usage["completion_tokens"]
            answer.prompt_tokens = usage["prompt_tokens"]
            answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        choices = event.get("choices")
        delta = (choices[0].get("delta") or {}) if choices else {}
        text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
        if not text:
            return False
        answer.heard(text, now)
        return True


class Anthropic:
    """/v1/messages. Cached tokens are no part of its `input_tokens`; here they are, as in the other dialect."""

    name = "anthropic"
    path = "/v1/messages"

    def body(self, request: Request, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "messages": request.turns(),
            "max_tokens": request.tokens,
            "temperature": request.temperature,
            "stream": True,
            **({"system": request.system} if request.system else {}),
            **request.extra,
        }

    def read(self, data: bytes, answer: Answer, now: float) -> bool:
        event = json.loads(data)
        match event["type"]:
            case "content_block_delta":
                delta = event["delta"]
                if text := delta.get("text") or delta.get("thinking"):
                    answer.heard(text, now)
                    return True
            case "message_start":
                self._count(event["message"].get("usage") or {}, answer)
            case "message_delta":
                self._count(event.get("usage") or {}, answer)
            case "message_stop":
                answer.complete = True
            case "error":
                answer.error = json.dumps(event.get("error"))[:200]
        return False

    @staticmethod
    def _count(usage: dict[str, Any], answer: Answer) -> None:
        if usage.get("input_tokens") is not None:
            answer.cached_tokens = usage.get("cache_read_input_tokens") or 0
            made = usage.get("cache_creation_input_tokens") or 0
            answer.prompt_tokens = usage["input_tokens"] + answer.cached_tokens + made
        answer.output_tokens = usage.get("output_tokens") or answer.output_tokens


DIALECTS: dict[str, Dialect] = {each.name: each for each in (OpenAI(), Anthropic())}
