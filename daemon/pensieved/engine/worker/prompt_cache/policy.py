"""What is worth keeping and taking, on which device.

On a CPU every token of prefill costs, and copying next to nothing. A GPU computes some hundred tokens in the time in which the
copies of one snapshot are launched; and a prompt that begins with a cached prefix is computed by itself, where others
of its length go together.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

SHARE_OF_MEMORY = 8
"""The cache has this part of the device's memory, where the settings do not say."""
SHARE_BESIDE_WEIGHTS = 4
"""And at most this part of what the weights leave."""


@dataclass(frozen=True)
class Policy:
    """Thresholds, in tokens.

    Attributes:
        taken: fewer are not taken from the cache.
        kept: fewer new ones are not kept.
        lasting: prompts and answers that are shorter are not kept.
        stopped: prompts with so many to compute are kept as soon as they are computed, before the answer ends.
        fetched: fewer are not read from disk.
        waste: how many may be read for each one that is of use: an entry is read as a whole.
        filed: so many of a prompt go to disk as soon as they are computed.
        refiled: so many go to disk when they are taken a second time.
    """

    taken: int
    kept: int
    lasting: int
    stopped: int
    fetched: int
    waste: int
    filed: int = 1024
    refiled: int = 256


CPU = Policy(taken=16, kept=16, lasting=16, stopped=64, fetched=64, waste=32)
GPU = Policy(taken=128, kept=32, lasting=256, stopped=256, fetched=256, waste=4)


def policy_for(device: mx.Device) -> Policy:
    """The policy for `device`."""
    return CPU if device.type == mx.DeviceType.cpu else GPU


def memory_for(total: int, weights: int) -> int:
    """Bytes for the cache on a device of `total`, beside `weights`, where the settings leave it to the machine."""
    return max(0, min(total // SHARE_OF_MEMORY, (total - weights) // SHARE_BESIDE_WEIGHTS))
