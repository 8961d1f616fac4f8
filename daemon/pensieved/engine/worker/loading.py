"""A model from its folder into memory, on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import utils

_OUT_OF_DEVICE = ("out of memory", "[metal", "[malloc", "cuda")
"""In the texts of MLX's RuntimeErrors: the machine is at fault, not the model."""


class UnloadableError(Exception):
    """This model can never be loaded here, whatever the number of attempts."""


def use_device(name: str) -> mx.Device:
    """Make `name` (auto, cpu or gpu) MLX's default device.

    On a CPU nothing is compiled: g++ takes a second for each kernel, for which everybody waits, and what it makes is no faster.

    Raises:
        UnloadableError: there is no such device.
    """
    if name == "gpu" and not mx.is_available(mx.Device(mx.gpu)):
        raise UnloadableError('engine.device is "gpu", but MLX finds no GPU here. Set it to "auto" or "cpu".')
    if name != "auto":
        mx.set_default_device(mx.Device(mx.cpu if name == "cpu" else mx.gpu))
    device = mx.default_device()
    if device.type == mx.DeviceType.cpu:
        mx.disable_compile()
    return device


def load_model(path: str, *, trust_remote_code: bool) -> Any:
    """The model in folder `path`, its weights in memory.

    Raises:
        UnloadableError: mlx-lm cannot make a model of this folder.
    """
    try:
        model, _ = utils.load_model(Path(path), trust_remote_code=trust_remote_code)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in _OUT_OF_DEVICE):
            raise
        raise UnloadableError(f"The model in {path} cannot be loaded: {_first_line(error)}") from error
    return model


def weight_bytes(model: Any) -> int:
    """Size of the weights in memory."""
    leaves: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in leaves)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]}" if lines else type(error).__name__
