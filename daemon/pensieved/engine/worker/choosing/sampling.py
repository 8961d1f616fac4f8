"""A request's sampling parameters as samplers and logits processors, of mlx-lm's parts.

Rows that hold the identical sampler object are sampled in one call, so equal parameters share one. Values that make no
sense are clamped to what they plainly mean: a request must not be able to break the engine. A seeded request has a
sampler of its own, whose noise depends on seed and output position alone: what else runs, or how often the engine was
restarted meanwhile, does not change the draw.

Numbers that are computed with are arrays. mlx-lm's functions are compiled, and a number would be compiled in: each further
temperature would be kernels of its own, seconds on CUDA, for which everybody who streams would wait.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import mlx.core as mx
import msgspec
from mlx_lm.sample_utils import (
    apply_top_k,
    apply_top_p,
    categorical_sampling,
    greedy_sampler,
    make_logits_processors,
)

from pensieved.engine.worker.choosing.logprobs import normalised
from pensieved.engine.worker.digest import blake2b

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.engine.protocol import Sampling

    Sampler = Callable[[mx.array], mx.array]
    Processor = Callable[[mx.array, mx.array], mx.array]

COLDEST = 1e-3
"""Below this temperature sampling is greedy: the division by it would only overflow."""
EVERYTHING = 1 << 30
"""Context size of a penalty that looks at all tokens it is given."""


class Samplers:
    """Makes and keeps samplers for a model of `vocabulary` tokens."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def sampler(self, wanted: Sampling, position: int) -> Sampler:
        """Chooses a token of each row of logits, (rows, vocabulary); `position` is the output index of its first one."""
        chosen = clamped(wanted, self._vocabulary)
        if chosen.temperature == 0:
            return greedy_sampler
        if chosen.seed is not None:
            return _seeded(chosen, position)
        return _shared(chosen.temperature, chosen.top_p, chosen.min_p, chosen.top_k)

    def processors(self, wanted: Sampling, prompt_length: int) -> list[Processor]:
        """Bias and penalties.

        As clients expect them: the repetition penalty looks at prompt and answer, OpenAI's presence and frequency
        penalties at the answer alone.
        """
        chosen = clamped(wanted, self._vocabulary)
        whole = make_logits_processors(
            logit_bias=dict(chosen.logit_bias),
            repetition_penalty=None if chosen.repetition_penalty == 1 else chosen.repetition_penalty,
            repetition_context_size=EVERYTHING,
        )
        answer = make_logits_processors(
            presence_penalty=chosen.presence_penalty,
            presence_context_size=EVERYTHING,
            frequency_penalty=chosen.frequency_penalty,
            frequency_context_size=EVERYTHING,
        )
        return [*whole, *(partial(_on_answer, processor, prompt_length) for processor in answer)]


def clamped(wanted: Sampling, vocabulary: int) -> Sampling:
    """`wanted` with every value in the range where it means something; NaN means "not set"."""
    bias = {
        token: _within(by, -100.0, 100.0, 0.0) for token, by in wanted.logit_bias if 0 <= token < vocabulary
    }
    temperature = _within(wanted.temperature, 0.0, 100.0, 0.0)
    return msgspec.structs.replace(
        wanted,
        temperature=temperature if temperature >= COLDEST else 0.0,
        top_p=_within(wanted.top_p, 0.0, 1.0, 1.0),
        top_k=wanted.top_k if 0 < wanted.top_k < vocabulary else 0,
        min_p=_within(wanted.min_p, 0.0, 1.0, 0.0),
        repetition_penalty=_within(wanted.repetition_penalty, 0.01, 100.0, 1.0),
        presence_penalty=_within(wanted.presence_penalty, -100.0, 100.0, 0.0),
        frequency_penalty=_within(wanted.frequency_penalty, -100.0, 100.0, 0.0),
        logit_bias=tuple(sorted(bias.items())),
    )


def _within(value: float, low: float, high: float, unset: float) -> float:
    return unset if math.isnan(value) else min(max(value, low), high)


@lru_cache(maxsize=256)
def _shared(temperature: float, top_p: float, min_p: float, top_k: int) -> Sampler:
    heat = mx.array(temperature, dtype=mx.float32)
    draw: Sampler = partial(categorical_sampling, temp=heat)  # type: ignore[arg-type]  # an array does as well
    return _filtered(draw, top_p, min_p, top_k)


def _seeded(chosen: Sampling, position: int) -> Sampler:
    """The same distribution as `_shared`, with noise from seed and position."""
    positions, heat = itertools.count(position), mx.array(chosen.temperature, dtype=mx.float32)

    def draw(logits: mx.array) -> mx.array:
        key = mx.random.key(noise_seed(chosen.seed or 0, next(positions)))
        # The Gumbel-max trick rather than `mx.random.categorical`, which searches a running sum where there is one row: what
        # rounding differs between batches moves every border there, and with a long tail about one draw in a thousand.
        noise = mx.random.gumbel(logits.shape, key=key)
        return mx.argmax(logits / heat + noise, axis=-1)

    return _filtered(draw, chosen.top_p, chosen.min_p, chosen.top_k)


def _filtered(draw: Sampler, top_p: float, min_p: float, top_k: int) -> Sampler:
    """`draw`, of the tokens that are left."""
    filters = _filters(top_p, min_p, top_k)

    def sampler(logits: mx.array) -> mx.array:
        for each in filters:
            logits = each(logits)
        return draw(logits)

    return sampler


def _filters(top_p: float, min_p: float, top_k: int) -> list[Sampler]:
    """Each makes tokens impossible, of those that the one before left; in the order of mlx-lm's own sampler."""
    filters: list[Sampler] = []
    if 0 < top_p < 1:  # a share of the whole, so it needs probabilities; the others compare
        filters += [normalised, partial(apply_top_p, top_p=mx.array(top_p))]  # type: ignore[arg-type]  # likewise
    if min_p:
        filters.append(partial(_apply_min_p, log_min_p=mx.array(math.log(min_p))))
    if top_k:
        filters.append(partial(apply_top_k, top_k=top_k))
    return filters


def _apply_min_p(logits: mx.array, log_min_p: mx.array) -> mx.array:
    """mlx-lm's function of that name, which takes numbers only."""
    least = mx.max(logits, axis=-1, keepdims=True) + log_min_p
    return mx.where(logits < least, -mx.inf, logits)


def noise_seed(seed: int, position: int) -> int:
    """64 well-mixed bits for one output position of one seed; any integer is a seed."""
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _on_answer(processor: Processor, prompt_length: int, tokens: mx.array, logits: mx.array) -> mx.array:
    """Apply `processor` with the answer's tokens as its context."""
    answer = tokens[prompt_length:]
    return processor(answer, logits) if len(answer) else logits
