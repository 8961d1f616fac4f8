"""What a request says, in no dialect's words: turns of parts.

Every dialect translates into this; only `tokenizer` reads it. New kinds of content join the `Part` union.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

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
    """Plain text."""

    text: str


Part = TextPart


class Turn(msgspec.Struct, frozen=True):
    """One speaker's contribution."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text as a chat template gets it."""
        return SEPARATOR.join(part.text for part in self.parts)


class Conversation(msgspec.Struct, frozen=True):
    """All turns so far. A final assistant turn is prefill: the answer continues it.

    `thinking` tells templates that know both ways whether the model may reason first; None leaves it to them.
    """

    turns: tuple[Turn, ...]
    thinking: bool | None = None


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
