"""What a request says, in no dialect's words: turns of parts, the tools it offers and how to use them.

Every dialect translates into this; only `tokenizer` and what it calls read it. New kinds of content join the
`Part` union.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

SEPARATOR = "\n\n"
"""Stands between parts of one turn, and between turns that are merged: separate texts stay separate paragraphs."""


class Role(StrEnum):
    """Who speaks. The values are the names chat templates use."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Plain text. `ends_prefix`, of any part: the client says that other prompts go on differently after it."""

    text: str
    ends_prefix: bool = False


class ThinkingPart(msgspec.Struct, frozen=True, tag="thinking"):
    """Reasoning that an assistant's turn began with; for templates that take it, dropped otherwise."""

    text: str
    ends_prefix: bool = False


class ToolCallPart(msgspec.Struct, frozen=True, tag="tool_call"):
    """A call that the assistant made. `call_id` is the client's, unique in the conversation."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    ends_prefix: bool = False


class ToolResultPart(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a call returned; only in turns of `Role.TOOL`. `name` is the called tool's."""

    call_id: str
    name: str
    text: str
    is_error: bool = False
    ends_prefix: bool = False


Part = TextPart | ThinkingPart | ToolCallPart | ToolResultPart


class Turn(msgspec.Struct, frozen=True):
    """One speaker's contribution."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text as a chat template gets it; thinking, calls and results are no part of it."""
        return SEPARATOR.join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def thinking(self) -> str:
        """The turn's reasoning, or an empty string."""
        return SEPARATOR.join(part.text for part in self.parts if isinstance(part, ThinkingPart))

    @property
    def calls(self) -> tuple[ToolCallPart, ...]:
        """The tools that this turn calls."""
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))

    @property
    def results(self) -> tuple[ToolResultPart, ...]:
        """The results that this turn brings."""
        return tuple(part for part in self.parts if isinstance(part, ToolResultPart))


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may call.

    `schema` is the JSON schema of its arguments, an object. `strict`: they must be valid against it. `path` is where
    the request says the schema, for errors. `ends_prefix`: as with parts; the prefix ends behind all tools then.
    """

    name: str
    description: str = ""
    schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False
    path: str = ""
    ends_prefix: bool = False


class ToolMode(StrEnum):
    """Whether tools are called."""

    AUTO = "auto"  # the model decides
    ANY = "any"  # at least one call, of any tool
    TOOL = "tool"  # at least one call, of the tool that is named
    NONE = "none"  # no call


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the client wants of the tools. `name` is set with `ToolMode.TOOL`; without `parallel`, one call at most."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None
    parallel: bool = True

    @property
    def forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.mode in {ToolMode.ANY, ToolMode.TOOL}


class Conversation(msgspec.Struct, frozen=True):
    """All turns so far, and what surrounds them. A final assistant turn is prefill: the answer continues it.

    Attributes:
        turns: who said what; results of tools are turns of their own, `Role.TOOL`.
        thinking: tells templates that know both ways whether the model may reason first; None leaves it to them.
        tools: what the model may call, names unique.
        tool_choice: whether it should; meaningless without tools.
        effort: how much to reason (low, medium, high), for templates that take it.
        thinking_budget: most tokens of reasoning; None is no limit.
        answer_schema: a JSON schema that the answer's text must be valid against.
        answer_schema_path: where the request says it, for errors.
    """

    turns: tuple[Turn, ...]
    thinking: bool | None = None
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    effort: str | None = None
    thinking_budget: int | None = None
    answer_schema: dict[str, Any] | None = None
    answer_schema_path: str = ""

    @property
    def offered(self) -> tuple[ToolDefinition, ...]:
        """The tools that the prompt describes: none where none may be called."""
        return () if self.tool_choice.mode is ToolMode.NONE else self.tools

    @property
    def is_continued(self) -> bool:
        """Whether the answer continues a final assistant turn."""
        return bool(self.turns) and self.turns[-1].role is Role.ASSISTANT


class RawPrompt(msgspec.Struct, frozen=True):
    """A prompt that is no conversation: text, or token ids, that the answer continues."""

    content: str | tuple[int, ...]


def text_turn(role: Role, text: str) -> Turn:
    """A turn of a single text."""
    return Turn(role, (TextPart(text),))


def merge_turns(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Join neighbouring turns of one role, for chat templates that insist on alternation."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role is turn.role:
            merged[-1] = Turn(turn.role, merged[-1].parts + turn.parts)
        else:
            merged.append(turn)
    return tuple(merged)
