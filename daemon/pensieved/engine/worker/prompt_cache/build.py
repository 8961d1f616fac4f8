"""The prompt cache that a `Load` asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from pensieved.engine.worker.prompt_cache.disk import Disk
from pensieved.engine.worker.prompt_cache.folder import Folder
from pensieved.engine.worker.prompt_cache.keeper import PromptCache
from pensieved.engine.worker.prompt_cache.policy import memory_for, policy_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.engine.protocol import PromptCacheWish, Recalled


def prompt_cache(
    wish: PromptCacheWish,
    device: mx.Device,
    weights: int,
    *,
    cuts: bool,
    report: Callable[[Recalled], object],
) -> PromptCache | None:
    """The cache, or None where nothing is to be kept.

    Args:
        wish: what the daemon wants.
        device: where the model computes.
        weights: their size in bytes.
        cuts: whether the model's KV cache can be cut anywhere.
        report: see `PromptCache`.
    """
    budget = memory_for(_memory(device), weights) if wish.memory is None else wish.memory
    if not budget:
        return None
    disk = None
    if wish.disk and wish.folder:
        disk = Disk(Folder(Path(wish.folder), wish.disk, wish.ttl), wish.fingerprint)
    return PromptCache(plain=cuts, policy=policy_for(device), budget=budget, report=report, disk=disk)


def _memory(device: mx.Device) -> int:
    """Bytes of the memory that the device has."""
    total = mx.device_info(device).get("memory_size") if device.type != mx.DeviceType.cpu else None
    return int(total or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
