"""Exponential backoff with full jitter, for retries that must not march in step."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds: `first`, doubling up to `longest`, each drawn from its upper half."""

    def __init__(self, first: float = 1.0, longest: float = 300.0) -> None:
        self._first = first
        self._longest = longest
        self._attempt = 0

    def next(self) -> float:
        """The delay before the next attempt."""
        ceiling = min(self._longest, self._first * 2.0**self._attempt)
        self._attempt += 1
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret

    def reset(self) -> None:
        """Start again from `first`, after a success."""
        self._attempt = 0
