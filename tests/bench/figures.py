"""Quantiles, and nothing cleverer: what a table says must be a value that was really measured."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest measured value that at least `share` of all values do not exceed (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """How many, p50, p99 and the largest, in seconds."""
    return {
        "n": len(seconds),
        "p50": rounded(quantile(seconds, 0.5)),
        "p99": rounded(quantile(seconds, 0.99)),
        "max": rounded(max(seconds, default=None)),
    }


def rounded(value: float | None) -> float | None:
    """To a microsecond: more digits are noise in a file that people read."""
    return None if value is None else round(value, 6)


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what there is; None of nothing."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def ratio(one: float | None, other: float | None) -> float | None:
    """`one` / `other`, where both were measured."""
    return one / other if one is not None and other else None
