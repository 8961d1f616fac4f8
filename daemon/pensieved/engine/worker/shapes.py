"""To which sizes the arrays of a step are rounded, so that a device meets few shapes and none of them late.

A step's compiled graph holds for one shape only, so rows and capacities grow in steps. Besides, what shapes cost differs
by device. On CUDA a row more or less is free, and a new shape is dear: cuDNN takes 50 ms on an H200 to plan an attention
it has not seen, ten times a step. So there rows double, and prompts are padded to few lengths. On Metal and on a CPU each
row costs and shapes do not matter: there are exactly as many rows as requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

FINEST = 64
"""Smallest step by which a row's capacity grows, in tokens."""
SIXTEENTH = 16
"""Beyond that, capacity grows by a sixteenth at a time: at most that share of the KV cache is unused."""
CHUNKS = (16, 64, 256, 512, 1024, 2048)
"""Lengths of a padded chunk of prefill."""
SHORT = 256
"""Tokens up to which any padding is cheaper than another pass."""
FAR = 2048
"""Beyond this, what a padded chunk looks at grows by as much."""


@dataclass(frozen=True)
class Shapes:
    """One device's policy.

    Attributes:
        compiled: whether a decode step goes through `mx.compile`.
        doubling: rows are a power of two, unused ones running along.
        padded: chunks of prefill have one of the lengths `CHUNKS`, groups a power of two of prompts, and a chunk looks
            at a power of two of positions, or at a multiple of `FAR`.
        slack: tokens by which the lengths of prompts in one group may differ.
        idle_chunks: chunks of prefill computed at once while nobody decodes.
    """

    compiled: bool = False
    doubling: bool = False
    padded: bool = False
    slack: int = 0
    idle_chunks: int = 1

    def rows(self, count: int) -> int:
        """Rows of a batch of `count` requests."""
        return 1 << (count - 1).bit_length() if self.doubling and count else count

    def capacity(self, tokens: int) -> int:
        """Tokens for which a row that needs `tokens` has room."""
        step = max(FINEST, (1 << (tokens.bit_length() - 1)) // SIXTEENTH) if tokens else FINEST
        return -(-tokens // step) * step

    def chunk(self, tokens: int) -> int:
        """Length to which a chunk of `tokens` is padded."""
        if not self.padded:
            return tokens
        return next((length for length in CHUNKS if length >= tokens), tokens)

    def take(self, left: int, room: int, before: int = 0) -> int:
        """How many of `left` tokens, behind `before`, to compute where there is room for `room`; at least one.

        Padding a chunk's end costs less than another pass, as long as it is short and the prompt's arrays hold it.
        """
        if not self.padded:
            return max(1, min(left, room))
        length = self.chunk(left)
        short = left <= SHORT or length <= left + left // 4
        if left <= room and short and before + length <= self.prompt_capacity(before + left):
            return left
        return min(left, max((length for length in CHUNKS if length <= min(left, room)), default=CHUNKS[0]))

    def reach(self, tokens: int) -> int:
        """Positions that a chunk looks at which ends at `tokens`."""
        if not self.padded:
            return tokens
        return -(-tokens // FAR) * FAR if tokens > FAR else max(CHUNKS[0], 1 << (tokens - 1).bit_length())

    def prompt_capacity(self, tokens: int) -> int:
        """Tokens for which prompts of up to `tokens` need room while they are computed."""
        if not self.padded:
            return self.capacity(tokens + 1)
        return self.reach(tokens + CHUNKS[0])

    def group(self, prompts: int) -> int:
        """How many of `prompts` prompts to compute together."""
        return 1 << (prompts.bit_length() - 1) if self.padded else prompts


def shapes_for(device: mx.Device) -> Shapes:
    """The policy for `device`."""
    if device.type == mx.DeviceType.cpu:
        return Shapes()
    if mx.metal.is_available():
        return Shapes(compiled=True, slack=16, idle_chunks=2)
    return Shapes(compiled=True, doubling=True, padded=True, slack=32, idle_chunks=4)
