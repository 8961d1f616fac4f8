"""What the prompt cache had for one answer: for its usage, its line in the log, and its header.

The line says positions, never text. The header does too, unless the operator wants to see where two prompts part
(`prompt_cache.explain`): then it shows a few words around that place, of this prompt and of the one that is cached.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pensieved.chat.events import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.chat.tokenizer import ChatTokenizer
    from pensieved.engine.client import Generation
    from pensieved.engine.protocol import Recalled
    from pensieved.http.answer import Prompt
    from pensieved.http.record import RequestRecord

HEADER = "x-pensieved-cache"
_AROUND = 8
"""Tokens shown before and behind the place where prompts part."""


class CacheNote:
    """Of one answer; written by its thread alone.

    Args:
        record: the request's, which gets the header and the counts for the log.
        explain: whether the header may say text.
    """

    def __init__(self, record: RequestRecord, *, explain: bool) -> None:
        self._record = record
        self._explain = explain
        self._prompt: Prompt | None = None
        self._generation: Generation | None = None
        self._noted = False

    def follow(self, prompt: Prompt, generation: Generation) -> None:
        """`generation` computes the prompt. A further part of the same answer is not what a client is told of."""
        if self._generation is None:
            self._prompt, self._generation = prompt, generation

    def look(self) -> None:
        """Write the record, as soon as the engine has said what it found."""
        recalled = self._recalled
        if self._noted or recalled is None or self._prompt is None:
            return
        self._noted = True
        total = len(self._prompt.ids)
        self._record.cached_tokens = recalled.cached
        self._record.diverged_at = recalled.matched if recalled.instead else None
        self._record.cache_header = _summary(recalled, total)
        if self._explain and recalled.instead:
            around = _around(recalled, self._prompt.ids, self._prompt.serving.text)
            self._record.cache_header += f"; {around}"

    def usage(self, prompt: Prompt, output_tokens: int = 0, reasoning_tokens: int = 0) -> Usage:
        """Token counts as far as they are known; what was read from the cache is certain before the first token."""
        recalled = self._recalled
        cached = recalled.cached if recalled is not None else 0
        created = max(0, prompt.marked - cached) if recalled is not None else 0
        return Usage(len(prompt.ids), output_tokens, cached, reasoning_tokens, created)

    @property
    def _recalled(self) -> Recalled | None:
        return self._generation.recalled if self._generation is not None else None


def _summary(recalled: Recalled, total: int) -> str:
    outcome = "hit" if recalled.cached else "miss"
    counts = f"cached={recalled.cached}; matched={recalled.matched}; prompt={total}"
    return f"{outcome}; {counts}" + (f"; diverged={recalled.matched}" if recalled.instead else "")


def _around(recalled: Recalled, ids: Sequence[int], text: ChatTokenizer) -> str:
    """JSON strings in ASCII: nothing in them can end the header."""
    place = recalled.matched
    shown = {
        "after": ids[max(0, place - _AROUND) : place],
        "now": ids[place : place + _AROUND],
        "before": recalled.instead,
    }
    return "; ".join(f"{name}={json.dumps(_words(part, text))}" for name, part in shown.items())


def _words(ids: Sequence[int], text: ChatTokenizer) -> str:
    return b"".join(map(text.token_bytes, ids)).decode(errors="replace")
