"""Where in a prompt others are likely to go on differently, in tokens: ends of tools, of the system text, and what clients mark.

Nothing in a chat template says where in the prompt a part ends. So the conversation is rendered again with another
end, and both texts agree up to there. Tokens are compared as well: only where the beginning of the text has the very tokens
with which the prompt begins is there a prefix that another prompt can share.

A cache that can be cut anywhere needs none of this; then it is done for what a client marked only, whose usage says how much
of the prompt that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.conversation import Conversation, Role, TextPart, Turn, text_turn
from pensieved.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LEAST = 256
"""Tokens below which nothing in a prompt is worth a breakpoint."""
MOST_MARKS = 4
"""Marks that are looked at, the last ones."""
_OTHER = "\ue001"
"""A text that no prompt goes on with: a private-use character."""


class Breakpoints(msgspec.Struct, frozen=True):
    """Numbers of prompt tokens.

    Attributes:
        places: all breakpoints, rising.
        marked: the last one that the client marked; 0 where there is none.
    """

    places: tuple[int, ...] = ()
    marked: int = 0


NONE = Breakpoints()


def find_breakpoints(
    conversation: Conversation,
    ids: Sequence[int],
    *,
    render: Callable[[Conversation], str],
    encode: Callable[[str], Sequence[int]],
    everywhere: bool,
) -> Breakpoints:
    """The breakpoints of the prompt `ids`.

    Args:
        conversation: what the prompt was made of.
        ids: the prompt.
        render: conversation to text.
        encode: text to ids, as it was done for the prompt.
        everywhere: also where the client has marked nothing.
    """
    if len(ids) < LEAST:
        return NONE
    marked = list(_marked(conversation))[-MOST_MARKS if everywhere else -1 :]
    others = list(_natural(conversation)) if everywhere else []
    if not marked and not others:
        return NONE
    text = render(conversation)

    def place_of(variant: Conversation) -> int:
        try:
            length = _common(text, render(variant))
        except RequestError:  # a template need not take half of a conversation
            return 0
        return _common(encode(text[:length]), ids) if length else 0

    marks = [place_of(variant) for variant in marked]
    places = sorted({place for place in (*marks, *map(place_of, others)) if place >= LEAST})
    return Breakpoints(tuple(places), marks[-1] if marks and marks[-1] >= LEAST else 0)


def _natural(conversation: Conversation) -> Iterator[Conversation]:
    """Variants that part from the prompt behind its tools, and behind its system text."""
    first = conversation.turns[0] if conversation.turns else None
    leading = first is not None and first.role is Role.SYSTEM
    if conversation.offered and leading:
        yield _with_turns(conversation, [text_turn(Role.SYSTEM, _OTHER), text_turn(Role.USER, _OTHER)])
    if first is not None and leading:
        yield _with_turns(conversation, [first, text_turn(Role.USER, _OTHER)])
    elif conversation.offered:
        yield _with_turns(conversation, [text_turn(Role.USER, _OTHER)])


def _marked(conversation: Conversation) -> Iterator[Conversation]:
    """Variants that part from the prompt behind each part that the client marked."""
    if any(tool.ends_prefix for tool in conversation.offered):
        turns = [text_turn(Role.USER, _OTHER)]
        if conversation.turns and conversation.turns[0].role is Role.SYSTEM:
            turns.insert(0, text_turn(Role.SYSTEM, _OTHER))
        yield _with_turns(conversation, turns)
    for number, turn in enumerate(conversation.turns):
        for place, part in enumerate(turn.parts, start=1):
            if part.ends_prefix:
                yield _with_turns(conversation, [*conversation.turns[:number], *_ended(turn, place)])


def _ended(turn: Turn, place: int) -> list[Turn]:
    """The turn with something else behind its first parts, and a user's turn, with which a prompt may end."""
    parts = turn.parts[:place]
    if turn.role in {Role.SYSTEM, Role.USER}:
        parts = (*parts, TextPart(_OTHER))
    ended = Turn(turn.role, parts)
    return [ended] if turn.role is Role.USER else [ended, text_turn(Role.USER, _OTHER)]


def _with_turns(conversation: Conversation, turns: Sequence[Turn]) -> Conversation:
    return msgspec.structs.replace(conversation, turns=tuple(turns))


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of what both begin with; halves are compared as a whole, which is quick."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
