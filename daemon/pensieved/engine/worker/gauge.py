"""Measures this machine as an engine would meet it, and prints `Figures` as JSON; see `pensieved.engine.gauge`.

Decoding one stream reads all weights once a token, so its speed is the memory's. Measured is the real thing, a
llama of mlx-lm's with random weights: few and wide layers, so that they do not fit into a processor's cache and the
launching of kernels weighs little. Of several rounds the best counts: others may be using the machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import msgspec
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.llama import Model, ModelArgs

from pensieved.engine.gauge import Figures
from pensieved.engine.worker.loading import UnloadableError, use_device, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 5
_TOKENS = 8
_COPIED = 128 * 1024**2  # bytes
_MATRIX = 1024
_LAYERS = {"cpu": 2, "gpu": 4}  # of float32 and of float16: about 400 MB in both


def _best(work: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _host_bandwidth() -> float:
    source = np.ones(_COPIED, np.uint8)
    target = np.zeros_like(source)
    return 2 * _COPIED / _best(lambda: np.copyto(target, source))


def _device_bandwidth() -> float:
    source = mx.ones(_COPIED // 4)
    mx.eval(source)
    return 2 * _COPIED / _best(lambda: mx.eval(source + 1))


def _flops() -> float:
    matrix = mx.random.normal((_MATRIX, _MATRIX))
    mx.eval(matrix)
    return 2 * _MATRIX**3 / _best(lambda: mx.eval(matrix @ matrix), 2)


def _model(device: str) -> Any:
    shape: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": _LAYERS[device],
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "vocab_size": 1024,
        "tie_word_embeddings": True,
    }
    model = Model(ModelArgs(**shape))
    if device == "gpu":
        model.set_dtype(mx.float16)
    mx.eval(model.parameters())
    return model


def _tokens_per_second(model: Any) -> float:
    """Of greedy decoding, a token at a time. Raises ArithmeticError where the model's numbers are none."""
    cache = make_prompt_cache(model)
    token = mx.array([[1]])

    def step() -> None:
        nonlocal token
        logits = model(token, cache=cache)[:, -1]
        token = mx.argmax(logits, axis=-1, keepdims=True)
        mx.eval(token, logits)
        if not mx.isfinite(logits).all().item():
            raise ArithmeticError("the device computes numbers that are none (NaN or infinity)")

    return 1 / _best(step, _TOKENS)


def _blas() -> str:
    """The OpenBLAS mapped into this process, on Linux."""
    maps = Path("/proc/self/maps")
    paths = [line.split()[-1] for line in maps.read_text().splitlines()] if maps.exists() else []
    ours = [path for path in paths if "openblas" in path and "numpy" not in path]
    return ours[0] if ours else ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="pensieved.engine.worker.gauge")
    parser.add_argument("--device", default="auto")
    try:
        device = "cpu" if use_device(parser.parse_args().device).type == mx.DeviceType.cpu else "gpu"
    except UnloadableError as error:
        sys.exit(str(error))
    host = _host_bandwidth()
    model = _model(device)
    figures = Figures(
        device=device,
        mlx=version("mlx"),
        mlx_lm=version("mlx-lm"),
        blas=_blas(),
        host_bandwidth=host,
        device_bandwidth=_device_bandwidth() if device == "gpu" else host,
        weight_bytes=weight_bytes(model),
        tokens_per_second=_tokens_per_second(model),
        flops=_flops(),
    )
    sys.stdout.buffer.write(msgspec.json.encode(figures))


if __name__ == "__main__":
    main()
