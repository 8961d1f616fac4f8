"""Machines with little memory: what MLX really takes in this process, against as much as the test gives."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import mlx.core as mx
from mlx_lm.models import llama

from pensieved.engine.worker.memory.device import Reading, in_use
from pensieved.machine import Pressure

MIB = 1024**2


def settled() -> int:
    """Bytes that MLX has in use, now that what earlier tests left in cycles is gone: else that would go in the midst of a test."""
    gc.collect()
    mx.clear_cache()
    return in_use()


@dataclass
class SmallMachine:
    """A device of `total` bytes beside what MLX had when the test began; a test may have `others` take some of it."""

    total: int
    others: int = 0
    pressure: Pressure = Pressure.NORMAL
    before: int = field(default_factory=settled)

    def __post_init__(self) -> None:
        self.total += self.before

    def read(self) -> Reading:
        """See `Device`."""
        return Reading(max(0, self.total - self.others - in_use()), self.pressure)


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def wide_model(seed: int = 0, layers: int = 2, heads: int = 16):
    """Layers that compute little and keep much of each token: 512 bytes a head."""
    mx.set_default_device(mx.Device(mx.cpu))
    mx.random.seed(seed)
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=32,
            num_hidden_layers=layers,
            intermediate_size=32,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=64,
            rms_norm_eps=1e-5,
            vocab_size=64,
            tie_word_embeddings=False,
        )
    )
    mx.eval(model.parameters())
    return model


WIDE_HEAD = 2 * 64 * 4
"""Bytes of a token in a head of `wide_model`: a key and a value of 64 numbers of 4 bytes."""
WIDE_TOKEN = 2 * 16 * WIDE_HEAD
"""The same in all heads of both layers."""
