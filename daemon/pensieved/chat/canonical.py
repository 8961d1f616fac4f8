"""Lines that change from request to request and say nothing to the model, dropped before the template sees them.

Some clients put a counter or a checksum into their system prompt. A prompt cache reuses a prompt up to its first
change, so one such line near the beginning costs the whole prompt, each time. Which lines those are is the
operator's to say: `[prompt] drop_lines`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.conversation import Conversation, Role, TextPart, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.chat.conversation import Part

_CLEANED = frozenset({Role.SYSTEM, Role.USER})


def canonical(conversation: Conversation, patterns: Sequence[str]) -> tuple[Conversation, int]:
    """`conversation` without the lines that match one of `patterns` as a whole, and how many they were.

    Only text of the system and of users is looked at. A system turn of nothing else disappears; a user's turn of
    nothing else stays as it is, because a conversation without it would be another one.
    """
    drop = _compiled(tuple(patterns))
    turns: list[Turn] = []
    dropped = 0
    for turn in conversation.turns:
        cleaned, count = _clean(turn, drop) if turn.role in _CLEANED else (turn, 0)
        if cleaned.parts or turn.role is Role.SYSTEM:
            dropped += count
        else:
            cleaned = turn
        turns += [cleaned] if cleaned.parts else []
    return (
        (msgspec.structs.replace(conversation, turns=tuple(turns)), dropped) if dropped else (conversation, 0)
    )


@lru_cache(maxsize=8)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(map(re.compile, patterns))


def _clean(turn: Turn, drop: Sequence[re.Pattern[str]]) -> tuple[Turn, int]:
    parts: list[Part] = []
    dropped = 0
    for part in turn.parts:
        if not isinstance(part, TextPart):
            parts.append(part)
            continue
        lines = part.text.split("\n")
        # Many lines are the same, empty ones above all: each is looked at once.
        volatile = {line for line in set(lines) if any(pattern.fullmatch(line) for pattern in drop)}
        kept = [line for line in lines if line not in volatile] if volatile else lines
        dropped += len(lines) - len(kept)
        text = part.text if len(kept) == len(lines) else "\n".join(kept)
        parts += [TextPart(text, part.ends_prefix)] if text.strip() or len(kept) == len(lines) else []
    return Turn(turn.role, tuple(parts)), dropped
