"""Which of two ways is faster on this machine, found out by trying.

Lanes wait for each other before and after each product, asleep, while OpenBLAS's threads spin. What it takes to wake a thread
differs by far more than processors do: with the same kernel and processors of the same kind, two lanes took a third less time
than two threads of the BLAS on a virtual machine of two, and a third more on one of sixteen.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx

from pensieved.engine.worker.passes.cpu.siblings import fit
from pensieved.engine.worker.passes.cpu.unpacked import Product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pensieved.engine.worker.passes.cpu.unpacked import Lanes

    Way = Callable[[mx.array], mx.array]
    Weights = Sequence[mx.array]

ROWS = 4
ROUNDS = 4
"""The best of so many counts, since others use the machine too."""
ENOUGH = 64 << 20
"""Bytes of weights that are multiplied, if there are so many: more than caches close to a core keep until the next round."""


def pays(
    groups: Iterable[Weights], lanes: Lanes, otherwise: Callable[[mx.array, mx.array], mx.array]
) -> bool:
    """Whether `lanes` multiply faster with some of these than is done otherwise, one group after the other as in a pass.

    Args:
        groups: float32, (outputs, inputs); those of a group are given the same rows, and lanes multiply with all of them at once.
        lanes: what would compute.
        otherwise: given weights and (rows, inputs), (rows, outputs); asked for each of a group.
    """
    tried = _some(groups)
    joined: list[Way] = [Product(mx.concatenate(list(group)), lanes) for group in tried]
    apart: list[Way] = [partial(_each, group, otherwise) for group in tried]
    inputs = [group[0].shape[1] for group in tried]
    return bool(tried) and faster(partial(_multiply, joined, inputs), partial(_multiply, apart, inputs))


def faster(
    one: Callable[[], object], other: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Whether `one` takes less time than `other`, at best, in turn; each is done once before that."""
    best = [float("inf"), float("inf")]
    for round_ in range(1 + ROUNDS):
        for place, way in enumerate((one, other)):
            began = clock()
            way()
            if round_:
                best[place] = min(best[place], clock() - began)
    return best[0] < best[1]


def _some(groups: Iterable[Weights]) -> list[Weights]:
    """The first that fit, up to `ENOUGH`."""
    found: list[Weights] = []
    size = 0
    for group in groups:
        if size >= ENOUGH:
            break
        if fit(group):
            found.append(group)
            size += sum(weight.nbytes for weight in group)
    return found


def _each(weights: Weights, multiply: Callable[[mx.array, mx.array], mx.array], x: mx.array) -> mx.array:
    """(rows, outputs of all)."""
    return mx.concatenate([multiply(weight, x) for weight in weights], axis=1)


def _multiply(ways: Sequence[Way], inputs: Sequence[int]) -> None:
    """Each waits for the one before it."""
    before = mx.zeros((ROWS, 1))
    for way, width in zip(ways, inputs, strict=True):
        before = way(mx.ones((ROWS, width)) + before)[:, :1] * 0.0
    mx.eval(before)
