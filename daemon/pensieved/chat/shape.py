"""Which conversations a chat template takes as they are, and how others are bent to fit.

Templates differ in what they refuse or silently drop: a system turn at all (Gemma), one in the middle
(Mistral), an assistant who speaks first, content that is a plain string. None of that is declared anywhere,
so each template is asked once, by rendering small conversations and looking for their words in the result.
String matching on the template's source would guess; probing knows.

A system turn that is not taken joins the user turn beside it. It is never moved to the front: that would
change the prompt's beginning with each request, and with it what a prompt cache can reuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.channels import ANSWER
from pensieved.chat.conversation import SEPARATOR, Role, Turn, merge_turns, text_turn
from pensieved.chat.toolprobe import probe_tools
from pensieved.chat.toolshape import ToolShape, bend_tools, content, plain_turns, tool_messages
from pensieved.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.chat.template import ChatTemplate, Message

# Conversations with a system turn where clients put them, as one letter a turn.
_INNER_SYSTEM = ("us", "usau", "uaus", "uasu", "usuau")


class TemplateShape(msgspec.Struct, frozen=True, kw_only=True):
    """What one template takes as it is."""

    content_as_parts: bool  # content must be a list of parts, not a string
    leading_system: bool
    prefill_after_system: (
        bool  # a leading system turn also when the last turn is the assistant's (Mistral: no)
    )
    inner_system: bool
    leading_assistant: bool
    channels: bool  # answers are written in channels (gpt-oss)
    behind_answer: str  # what follows an assistant's text
    tools: ToolShape | None  # None: tools must be described as text


def probe(template: ChatTemplate, tool_parser: str = "") -> TemplateShape:
    """Ask `template` what it takes; `tool_parser` is mlx-lm's name of how it writes calls, where that is known."""
    as_parts = not _keeps(template, "u", as_parts=False) and _keeps(template, "u", as_parts=True)
    leading_system = all(_keeps(template, letters, as_parts=as_parts) for letters in ("su", "suau"))
    inner = _INNER_SYSTEM + (tuple(f"s{shape}" for shape in _INNER_SYSTEM) if leading_system else ())
    before, behind = _around_an_answer(template, as_parts=as_parts)
    return TemplateShape(
        content_as_parts=as_parts,
        leading_system=leading_system,
        prefill_after_system=leading_system and _keeps(template, "sua", as_parts=as_parts),
        inner_system=all(_keeps(template, shape, as_parts=as_parts) for shape in inner),
        leading_assistant=_keeps(template, "au", as_parts=as_parts),
        channels=before.endswith(ANSWER),
        behind_answer=behind,
        tools=probe_tools(template, tool_parser, as_parts=as_parts),
    )


def fit(turns: Sequence[Turn], shape: TemplateShape) -> list[Message]:
    """`turns` as template messages, bent as little as `shape` asks for."""
    said = turns if shape.tools else plain_turns(turns)
    fitted = list(merge_turns(_fold_system(merge_turns(said), shape)))
    if shape.tools:
        fitted = bend_tools(fitted, shape.tools)
    start = 1 if fitted and fitted[0].role is Role.SYSTEM else 0
    if not shape.leading_assistant and fitted[start : start + 1] and fitted[start].role is Role.ASSISTANT:
        fitted.insert(start, text_turn(Role.USER, ""))
    numbers: dict[str, str] = {}
    return [message for turn in fitted for message in _messages(turn, shape, numbers)]


def _messages(turn: Turn, shape: TemplateShape, numbers: dict[str, str]) -> list[Message]:
    if shape.tools and (turn.role is Role.TOOL or turn.calls):
        messages = tool_messages(turn, shape.tools, numbers, as_parts=shape.content_as_parts)
    else:
        messages = [_message(turn, as_parts=shape.content_as_parts)]
    if turn.thinking and turn.role is Role.ASSISTANT:  # templates that do not know it pass over it
        messages[0]["reasoning_content"] = turn.thinking
        if shape.channels:
            messages[0] |= _reasoned(turn, shape)
    return messages


def _reasoned(turn: Turn, shape: TemplateShape) -> Message:
    """Reasoning by the name it has with gpt-oss, whose template takes no text beside it in a turn that calls."""
    if not turn.calls:
        return {"thinking": turn.thinking}
    thinking = SEPARATOR.join(text for text in (turn.thinking, turn.text) if text)
    return {"thinking": thinking, "content": content("", as_parts=shape.content_as_parts)}


def _fold_system(turns: Sequence[Turn], shape: TemplateShape) -> list[Turn]:
    """Turn each refused system turn into a user turn, or into part of the one before or after it."""
    if len(turns) == 1:  # a system turn and nothing else: only templates without rules take that
        leading = shape.inner_system
    elif turns and turns[-1].role is Role.ASSISTANT:
        leading = shape.prefill_after_system
    else:
        leading = shape.leading_system
    return [
        Turn(Role.USER, turn.parts)
        if turn.role is Role.SYSTEM and not (shape.inner_system if index else leading)
        else turn
        for index, turn in enumerate(turns)
    ]


def _message(turn: Turn, *, as_parts: bool) -> Message:
    return {"role": turn.role.value, "content": content(turn.text, as_parts=as_parts)}


def _around_an_answer(template: ChatTemplate, *, as_parts: bool) -> tuple[str, str]:
    """What stands before and behind an assistant's text; nothing, where it is refused or lost."""
    answer = "probe answer"
    said = [text_turn(Role.USER, "probe question"), text_turn(Role.ASSISTANT, answer)]
    try:
        text = template.render([_message(turn, as_parts=as_parts) for turn in said], answer=False)
    except RequestError:
        return "", ""
    before, found, after = text.rpartition(answer)
    return (before, after) if found else ("", "")


def _keeps(template: ChatTemplate, letters: str, *, as_parts: bool) -> bool:
    """Whether a conversation of such turns is rendered with every text, in the order in which it was said."""
    roles = {"s": Role.SYSTEM, "u": Role.USER, "a": Role.ASSISTANT}
    words = [f"probe{number}word" for number in range(len(letters))]
    messages = [
        _message(text_turn(roles[letter], word), as_parts=as_parts)
        for letter, word in zip(letters, words, strict=True)
    ]
    try:
        text = template.render(messages)
    except RequestError:
        return False
    places = [text.find(word) for word in words]
    if (
        letters[0] == "s"
    ):  # some templates move the leading system turn to the last user turn: theirs to decide
        places = places[1:] if places[0] >= 0 else places
    return min(places) >= 0 and places == sorted(places)
