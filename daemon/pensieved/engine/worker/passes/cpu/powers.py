"""Exponentials on an x86 CPU, as powers of two.

MLX's `exp` is written for vectors, of which that backend has none, and each of its fused multiply-adds is a call into the C
library. `power` is one call of the C library's own, and takes less than half as long. Much of the time that a prompt takes goes
into exponentials, in attention and in the activations of its layers (`tests/bench/ways.py` measures what this is worth).
Both err by as much: 4e-6 of the smallest results, less of those that count.

Where a pass is computed while it is made, NumPy computes them in less time yet (see `numbers`).
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import activations

from pensieved.engine.worker.passes.cpu import numbers
from pensieved.engine.worker.passes.cpu.meanwhile import is_computed_meanwhile
from pensieved.engine.worker.passes.modules import replace_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.engine.worker.passes.cpu.numbers import Floats

PER_UNIT = math.log2(math.e)
"""What an exponent of e is multiplied by to be one of 2."""


def power_of_two(x: mx.array) -> mx.array:
    """2 to the power of each number."""
    return mx.power(_two(), x)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """`mlx_lm.models.activations.swiglu`: silu of the gate, times x.

    Where the pass is computed meanwhile, the result is in the memory of `gate`, which nothing else may be going to read, unless that
    is a part of a larger array's.
    """
    if gate.dtype != mx.float32:
        plain: mx.array = activations.swiglu(gate, x)
        return plain
    if (
        is_computed_meanwhile()
        and gate.size >= numbers.LEAST
        and (gate.shape, gate.dtype) == (x.shape, x.dtype)
    ):
        return _swiglu_in_place(gate, x)
    return gate * x / (1.0 + power_of_two(gate * -PER_UNIT))


def _swiglu_in_place(gate: mx.array, x: mx.array) -> mx.array:
    gate = mx.contiguous(gate)  # a part of a larger array may be read again
    mx.eval(gate, x)
    numbers.by_rows(_activate, *(numbers.memory(each).reshape(-1, each.shape[-1]) for each in (gate, x)))
    return gate


def _activate(gates: Floats, others: Floats) -> None:
    divisors = numbers.scratch(gates)
    np.negative(gates, out=divisors)
    with np.errstate(over="ignore"):  # the result is 0 then, as it should be
        np.exp(divisors, out=divisors)
    divisors += 1.0
    gates *= others
    gates /= divisors


def activate_by_powers(model: Any) -> None:
    """Let the layers of `model` whose activation is mlx-lm's `swiglu` use the one in here."""
    theirs: Callable[..., Any] = activations.swiglu
    replace_function(model, "swiglu", theirs, swiglu)


@cache
def _two() -> mx.array:
    return mx.array(2.0)
