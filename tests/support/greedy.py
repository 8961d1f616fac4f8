"""What mlx-lm's own generator answers at temperature 0, to compare with."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from mlx_lm.generate import BatchGenerator

from support.architectures import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def prompts(lengths: Iterable[int], seed: int = 0) -> list[tuple[int, ...]]:
    """Random ids."""
    chance = random.Random(seed)
    return [tuple(chance.randrange(VOCABULARY) for _ in range(length)) for length in lengths]


def expected(model: Any, wanted: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """mlx-lm's batched greedy answers."""
    generator = BatchGenerator(model, completion_batch_size=8, prefill_batch_size=8)
    ids = generator.insert([list(each) for each in wanted], max_tokens=[tokens] * len(wanted))
    answers: dict[int, list[int]] = {each: [] for each in ids}
    live = set(ids)
    while live:
        for response in generator.next()[1]:
            answers[response.uid].append(response.token)
            if response.finish_reason is not None:
                live.discard(response.uid)
    generator.close()
    return [answers[each] for each in ids]
