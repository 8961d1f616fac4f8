"""To which sizes the arrays of a step are rounded, so that a device meets few shapes and none of them late.

A step's compiled graph holds for one shape only, so rows and capacities grow in steps. Besides, what shapes cost differs
by device. On CUDA a row more or less is free, and a new shape is dear: cuDNN takes 50 ms on an H200 to plan an attention
it has not seen, ten times a step. So there rows double, prompts are padded to few lengths, and a chunk of them is a pass
of its own, the same one whoever decodes meanwhile: shapes that are met apart add up, together they multiply. On Metal and
on a CPU each row costs and shapes do not matter: there are exactly as many rows as requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

FINEST = 64
"""Smallest step by which a row's capacity grows, in tokens."""
FINEST_COMPILED = 256
"""The same where each capacity is traced: one step in so many is the slower for it."""
SIXTEENTH = 16
"""Beyond that, capacity grows by a sixteenth at a time: at most that share of the KV cache is unused."""
CHUNKS = (64, 128, 256, 512, 1024, 2048)
"""Lengths of a padded chunk of prefill. A GPU hardly computes fewer tokens in less time."""
SHORT = 256
"""Tokens up to which any padding is cheaper than another pass."""
QUARTER = 4
"""A padded chunk is at least that part of what it looks at, up to `SHORT`: a shorter one takes a GPU hardly less time there, and
cuDNN's plan for one more shape takes 12 MB."""

PLAIN = 2
"""Passes after somebody joined for which nothing is traced: as many as are set off before a first token is sent."""


@dataclass(frozen=True)
class Shapes:
    """One device's policy.

    Attributes:
        compiled: whether a decode step goes through `mx.compile`.
        doubling: rows are a power of two, unused ones running along.
        padded: chunks of prefill have one of the lengths `CHUNKS`, groups a power of two of prompts, and a chunk looks
            at a power of two of positions.
        apart: a chunk of prefill is a pass of its own, and each pass is set off by itself.
        ahead: fewest rows with which a pass is set off before the tokens of the one before are read (see `decode`).
        vectors: whether small weights are multiplied by each of a few rows (see `vectors`).
        finest: smallest step by which a row's capacity grows.
        slack: tokens by which the lengths of prompts in one group may differ.
        idle_chunks: chunks of prefill computed at once while nobody decodes.
        busy_chunks: the same while somebody does, if readers bear as many (see `pace`).
        similar: rows whose lengths differ by no more than this factor share a shelf, and each has the longest one's room.
        short: tokens below which a row's length does not matter for that.
        shelves: most of them. On a GPU each costs a step some launches, and room that nobody looks at next to nothing. On
            a CPU room costs: eight short rows beside one of 2,000 tokens took four times as long as apart.
        at_once: scores of a head, of all sequences together, from which on they are computed while a pass is being made, if
            that is of use (see `cpu/attention`); None where nothing is, as it must be where passes are compiled.
        many: tokens of prompts from which on a pass is computed while it is being made, however few scores they have.
        pausing: most tokens of a pass that is, of prompts alone: it pauses for those who decode. Longer ones would take more time
            for each token: half of the scores among themselves are of what a token must not see.
        answering: whether a prompt's last token is computed with those before it where there is room, so that its own pass gives the
            answer's first token. Else that token is left to the next decode step, which is a pass more to wait for; but no
            other pass needs logits then, and where passes are compiled each is one shape less.
        unpacks: whether weights are unpacked for prompts, a layer's at a time (see `quantized`): what a pass makes and needs no more
            is much then.
        least: prompt tokens that go along with a decode step at the least. A pass for more rows than those that decode costs a
            CPU something, whatever their number: beside eight streams that step is 100 ms longer with 16 tokens, and 160 with 32.
    """

    compiled: bool = False
    doubling: bool = False
    padded: bool = False
    apart: bool = False
    ahead: int = 1
    vectors: bool = False
    finest: int = FINEST
    slack: int = 0
    idle_chunks: int = 1
    busy_chunks: int = 1
    similar: float = 4
    short: int = 512
    shelves: int = 4
    at_once: int | None = None
    many: int = 32
    pausing: int = 256
    answering: bool = False
    unpacks: bool = False
    least: int = 16

    def rows(self, count: int) -> int:
        """Rows of a batch of `count` requests."""
        return 1 << (count - 1).bit_length() if self.doubling and count else count

    def capacity(self, tokens: int) -> int:
        """Tokens for which a row that needs `tokens` has room."""
        step = max(self.finest, (1 << tokens.bit_length() >> 1) // SIXTEENTH)
        return -(-tokens // step) * step

    def chunk(self, tokens: int, known: int = 0) -> int:
        """Length to which a chunk of `tokens` behind `known` is padded."""
        if not self.padded:
            return tokens
        return next(
            (length for length in CHUNKS if length >= max(tokens, self._least(known + length))), tokens
        )

    def _least(self, end: int) -> int:
        """Length of a chunk that ends there at the least."""
        return min(SHORT, self.reach(end) // QUARTER)

    def take(self, left: int, room: int) -> int:
        """How many of `left` tokens to compute where there is room for `room`; at least one.

        Padding a chunk's end costs less than another pass, as long as it is short.
        """
        if not self.padded:
            return max(1, min(left, room))
        length = self.chunk(left)
        short = left <= SHORT or length <= left + left // 4
        if left <= room and short:
            return left
        return min(left, max((length for length in CHUNKS if length <= min(left, room)), default=CHUNKS[0]))

    def reach(self, tokens: int) -> int:
        """Positions that a chunk looks at which ends at `tokens`."""
        return max(CHUNKS[0], 1 << (tokens - 1).bit_length()) if self.padded else tokens

    def prompt_capacity(self, known: int, whole: int) -> int:
        """Room, in tokens, of prompts of up to `whole` when they are begun behind `known`.

        Padded chunks find as much room as they look at and no more, so that few shapes come together: the room grows
        with them.
        """
        return self.reach(known + 1) if self.padded else self.capacity(whole + 1)

    def own(self, prompt: int) -> int:
        """Tokens of a prompt of so many that its own passes compute at the most; see `answering`."""
        return prompt if self.answering else prompt - 1

    def unlikeness(self, one: int, other: int) -> float:
        """Factor by which rows of `one` and of `other` tokens differ; see `similar`."""
        less, more = sorted((max(self.short, one), max(self.short, other)))
        return more / less

    def alike(self, one: int, other: int) -> bool:
        """Whether rows of `one` and of `other` tokens share a shelf."""
        return self.unlikeness(one, other) <= self.similar

    def is_at_once(self, tokens: int, positions: int) -> bool:
        """Whether scores of so many tokens, each for so many positions, are computed while a pass is being made."""
        return self.at_once is not None and tokens * positions >= self.at_once

    def are_at_once(self, tokens: int) -> bool:
        """Whether a pass for so many tokens of prompts is computed while it is being made, however few scores they have."""
        return self.at_once is not None and tokens >= self.many

    def group(self, prompts: int) -> int:
        """How many of `prompts` prompts to compute together."""
        return 1 << (prompts.bit_length() - 1) if self.padded else prompts


CPU = Shapes(ahead=2, similar=2, short=128, shelves=8, at_once=1 << 14, answering=True, least=32)
METAL = Shapes(compiled=True, slack=16, idle_chunks=2, answering=True)
CUDA = Shapes(
    compiled=True,
    doubling=True,
    padded=True,
    apart=True,
    vectors=True,
    finest=FINEST_COMPILED,
    slack=32,
    idle_chunks=4,
    busy_chunks=4,
)


def shapes_for(device: mx.Device) -> Shapes:
    """The policy for `device`."""
    if device.type == mx.DeviceType.cpu:
        return CPU
    return METAL if mx.metal.is_available() else CUDA
