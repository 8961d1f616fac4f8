"""Functions that a model's code has imported by name, replaced where it looks them up."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def replace_function(model: Any, name: str, theirs: Callable[..., Any], ours: Callable[..., Any]) -> None:
    """Let the modules of code that `model` is made of find `ours` under `name` where they would find `theirs`."""
    for module_name in {type(module).__module__ for module in model.modules()}:
        module = sys.modules[module_name]
        if getattr(module, name, None) is theirs:
            setattr(module, name, ours)
