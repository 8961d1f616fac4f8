"""Whether the pass that is being made is computed meanwhile: what NumPy does better than MLX is left to it then (see `numbers`).

A pass that pauses has a context of its own, as greenlets do, so it never tells another one.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMPUTED: ContextVar[bool] = ContextVar("computed meanwhile", default=False)


@contextmanager
def computed_meanwhile(computed: bool) -> Iterator[None]:  # noqa: FBT001  # the one thing that it says
    """A pass is made in here."""
    before = _COMPUTED.set(computed)
    try:
        yield
    finally:
        _COMPUTED.reset(before)


def is_computed_meanwhile() -> bool:
    """Whether the one that is being made is."""
    return _COMPUTED.get()
