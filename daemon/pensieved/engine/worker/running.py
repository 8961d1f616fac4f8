"""A request on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx_lm.models.cache import TokenBuffer

    from pensieved.engine.worker.choosing.sampling import Processor, Sampler

Snapshot = list[Any]
"""The KV cache of one sequence: mlx-lm's single-sequence cache of each layer."""


@dataclass(eq=False)
class Running:
    """What the step needs to know of a request.

    Attributes:
        request: its number in the protocol.
        prompt: token ids, at least one.
        max_tokens: tokens after which it ends.
        stop_tokens: tokens that end it.
        sampler: chooses from logits, (rows, vocabulary); rows with the same object share one call.
        processors: change its logits before that, given its tokens so far.
        logprobs: likeliest tokens to report beside each token's own log-probability; None reports nothing.
        breakpoints: numbers of prompt tokens, rising, after which other prompts may go on differently.
        prefix: the KV cache of the prompt's first tokens, if known.
        cached: how many tokens `prefix` holds; fewer than the prompt has.
        stops: numbers of prompt tokens, rising, after which a snapshot is wanted.
        answer: tokens produced.
        context: prompt and answer as the processors see them; only where there are any.
        first: the first token of its answer as `Chooser.choose` gives it, of this row alone, if the pass that computed its prompt's
            last token was the prompt's own; None once it has joined those who decode.
        fresh: it has not joined them, or the step in flight computes its last prompt token: no token of its own is on its way.
        unread: one is.
        gone: it ended or was cancelled, and leaves the batch with the next arrangement.
    """

    request: int
    prompt: tuple[int, ...]
    max_tokens: int
    stop_tokens: frozenset[int]
    sampler: Sampler
    processors: tuple[Processor, ...] = ()
    logprobs: int | None = None
    breakpoints: tuple[int, ...] = ()
    prefix: Snapshot | None = None
    cached: int = 0
    stops: tuple[int, ...] = ()
    answer: list[int] = field(default_factory=list)
    context: TokenBuffer | None = None
    first: tuple[mx.array, dict[int, mx.array]] | None = None
    fresh: bool = True
    unread: bool = False
    gone: bool = False

    @cached_property
    def ids(self) -> np.ndarray:
        """The prompt, to be compared with others."""
        return np.array(self.prompt, dtype=np.uint32)

    @property
    def ends_next(self) -> bool:
        """Whether the token on its way is its last, whatever it is."""
        return not self.fresh and len(self.answer) + 1 >= self.max_tokens
