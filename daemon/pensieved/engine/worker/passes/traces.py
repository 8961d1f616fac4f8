"""Compiled passes, the latest ones used: each holds for the shapes it was traced for, and there is no end of shapes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Traces:
    """Compiles a pass when it is first asked for.

    Args:
        most: of which so many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def of(self, key: Hashable, plain: Callable[..., Any]) -> Any:
        """`plain`, compiled; `key` stands for everything that its trace depends on."""
        trace = self._kept.pop(key, None) or mx.compile(plain)
        self._kept[key] = trace
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return trace
