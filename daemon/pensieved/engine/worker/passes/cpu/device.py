"""Where this is worth it."""

import platform
from functools import cache

import mlx.core as mx


def on_cpu() -> bool:
    """Whether what is made now is computed by a CPU."""
    return mx.default_device().type == mx.DeviceType.cpu


def on_x86() -> bool:
    """The same, and by MLX's backend for x86, which computes one number at a time. On a Mac it has vectors of them."""
    return _is_x86() and on_cpu()


@cache
def _is_x86() -> bool:
    return platform.machine().lower() in {"x86_64", "amd64"}
