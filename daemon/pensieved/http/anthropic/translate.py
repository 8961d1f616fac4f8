"""Anthropic requests to neutral ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.chat.conversation import Conversation, Role, TextPart, Turn, merge_turns, text_turn
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic.schema import RedactedThinkingBlock, TextBlock, ThinkingBlock
from pensieved.http.completion import CompletionRequest, SamplingWishes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.http.anthropic.schema import Block, Message, MessagesRequest, PromptFields

_DROPPED = (ThinkingBlock, RedactedThinkingBlock)


def to_completion(request: MessagesRequest) -> CompletionRequest:
    """The neutral request.

    Raises:
        RequestError: INVALID, with the path of content that cannot be answered.
    """
    return CompletionRequest(
        model=request.model,
        conversation=to_conversation(request),
        max_tokens=request.max_tokens,
        stop=tuple(dict.fromkeys(request.stop_sequences or ())),
        sampling=SamplingWishes(temperature=request.temperature, top_p=request.top_p, top_k=request.top_k),
    )


def to_conversation(request: PromptFields) -> Conversation:
    """Turns in the order in which they were sent: the system prompt first, inner system turns where they stand.

    Neighbouring turns of one role are one. The dialect turns reasoning on by request only, so it is off here.
    """
    system = _text_parts(request.system or (), "system")
    turns = [Turn(Role.SYSTEM, system)] if system else []
    last = len(request.messages) - 1
    for index, message in enumerate(request.messages):
        turn = _turn(message, index)
        if turn.parts:
            turns.append(turn)
        elif turn.role is not Role.SYSTEM and not (turn.role is Role.ASSISTANT and index == last):
            raise RequestError(
                RequestErrorKind.INVALID,
                "all messages must have non-empty content except for the optional final assistant message",
                path=f"messages.{index}.content",
            )
    return Conversation(merge_turns(turns), thinking=False)


def _turn(message: Message, index: int) -> Turn:
    role = Role(message.role)
    if isinstance(message.content, str):
        return text_turn(role, message.content) if message.content else Turn(role, ())
    return Turn(role, _text_parts(message.content, f"messages.{index}.content"))


def _text_parts(content: str | Sequence[Block], path: str) -> tuple[TextPart, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    parts: list[TextPart] = []
    for index, block in enumerate(content):
        if isinstance(block, TextBlock):
            parts += [TextPart(block.text)] if block.text else []
        elif not isinstance(block, _DROPPED):
            raise RequestError(
                RequestErrorKind.INVALID,
                f"this model takes text only, not {block.__struct_config__.tag} blocks",
                path=f"{path}.{index}",
            )
    return tuple(parts)
