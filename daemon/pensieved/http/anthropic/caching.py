"""Anthropic's `cache_control`: which parts of a prompt a client marks, and for how long it wants them kept."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pensieved.chat.conversation import Turn
    from pensieved.http.anthropic.blocks import CacheControl, Lifetime
    from pensieved.http.anthropic.schema import PromptFields


def lifetime(request: PromptFields) -> Lifetime:
    """What the last mark in a request asks for."""
    controls = [control for control in _controls(request) if control is not None]
    return (controls[-1].ttl if controls else None) or "5m"


def end_marked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns with their last part marked."""
    if not turns:
        return ()
    *others, last = turns
    marked = msgspec.structs.replace(last.parts[-1], ends_prefix=True)
    return (*others, msgspec.structs.replace(last, parts=(*last.parts[:-1], marked)))


def _controls(request: PromptFields) -> Iterator[CacheControl | None]:
    contents = [request.system, *(message.content for message in request.messages)]
    blocks = chain.from_iterable(content for content in contents if isinstance(content, list))
    yield from (tool.cache_control for tool in request.tools or ())
    yield from (getattr(block, "cache_control", None) for block in blocks)
    yield request.cache_control
