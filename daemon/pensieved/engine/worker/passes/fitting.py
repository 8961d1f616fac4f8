"""Whether a model can be run in flat passes: found out by trying, since no table of architectures would stay true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from pensieved.engine.worker.passes.flat import Flat
from pensieved.engine.worker.passes.onepass import UnfitError

if TYPE_CHECKING:
    from pensieved.engine.worker.passes.shapes import Shapes

ROUNDING = 0.1
"""Relative error of logits that half precision may explain; a mistake in structure gives about 1."""
PROMPTS = ((1, 2, 3, 4, 5, 6), (3, 2, 1))


def flat_for(model: Any, shapes: Shapes) -> Flat | None:
    """A runner with flat passes, if they give this model's own logits."""
    if any(type(layer) is not KVCache for layer in make_prompt_cache(model)):
        return None
    try:
        flat = Flat(model, shapes)
        found = _try(flat)
    except (UnfitError, AttributeError, IndexError, TypeError, ValueError):
        return None
    own = [model(_ids([ids]))[0, -1] for ids in PROMPTS]
    return flat if all(_alike(*pair) for pair in zip(found, own, strict=True)) else None


def _try(flat: Flat) -> list[mx.array]:
    """Logits behind each prompt: the second joins while the first decodes, and their last tokens run together."""
    first, second = PROMPTS
    groups = [flat.open([len(prompt) - 1]) for prompt in PROMPTS]
    flat.run(None, [(groups[0], [first[:4]])])
    places = flat.arrange([], [(groups[0], 0, 4)])
    flat.run(_ids([first[4]] * flat.width), [(groups[1], [second[:2]])])
    places = flat.arrange(places, [(groups[1], 0, 2)])
    tokens = [0] * flat.width
    for place, prompt in zip(places, PROMPTS, strict=True):
        tokens[place] = prompt[-1]
    logits, _ = flat.run(_ids(tokens), [])
    flat.arrange([], [])
    return [] if logits is None else [logits[place] for place in places]


def _ids(tokens: Any) -> mx.array:
    """Of the type that requests bring them in: where kernels are compiled, another one's would be compiled for this alone."""
    return mx.array(tokens, dtype=mx.uint32)


def _alike(found: mx.array, expected: mx.array) -> bool:
    found, expected = found.astype(mx.float32), expected.astype(mx.float32)
    error: Any = (mx.linalg.norm(found - expected) / mx.linalg.norm(expected)).item()
    return bool(error < ROUNDING)
