"""With which command and environment the engine process starts."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pensieved.engine import blas

if TYPE_CHECKING:
    from pathlib import Path

WORKER = (sys.executable, "-P", "-m", "pensieved.engine.worker")
"""-P: a file in the working directory must not stand in for a module."""


@dataclass(frozen=True)
class EngineConfig:
    """How to run engines. Times in seconds.

    Args:
        cache_dir: folder for what is made once: the BLAS, compiled kernels.
        device: auto, cpu or gpu.
        prefill_chunk: prompt tokens computed between two decode steps.
        speculation: draft tokens where that is faster.
        hang_timeout: silence after which a loaded engine is killed and restarted.
        load_timeout: the same while it starts and loads.
        max_restarts: deaths in a row, none of them after a token, before giving up.
        restart_window: period within which such deaths count as in a row.
        idle_unload: time without requests after which the engine leaves memory until the next; 0: never.
        command: what to run instead of the worker.
    """

    cache_dir: Path
    device: str = "auto"
    prefill_chunk: int = 512
    speculation: bool = True
    hang_timeout: float = 60.0
    load_timeout: float = 600.0
    max_restarts: int = 5
    restart_window: float = 300.0
    idle_unload: float = 0.0
    command: tuple[str, ...] = WORKER


def environment(config: EngineConfig) -> dict[str, str]:
    """The daemon's environment and what the engine needs besides."""
    kernels = _kernel_dir(config)
    kernels.mkdir(parents=True, exist_ok=True)
    return {
        **_graphs(),
        **_arrays(),
        **os.environ,
        **(blas.environment(config.cache_dir) if config.command is WORKER else {}),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash signal leaves its stack in the log
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(kernels),
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def _graphs() -> dict[str, str]:
    """How MLX's CUDA backend keeps the graphs that it makes of what it launches, unless the user says it otherwise."""
    if sys.platform != "linux":
        return {}  # Metal would heed one of them, too
    return {
        # Launches in a graph at the most. Short ones are alike, layer after layer, so there are fewer of them to make and to keep,
        # and the same ones serve where a pass is computed in parts. Shorter still, they take longer to launch than to run.
        "MLX_MAX_OPS_PER_BUFFER": "20",
        # MB that launches of a graph read. What they made and need no more is free when all of the graph has run: of prompts with
        # unpacked weights that is hundreds of MB. What reads so much takes longer to run than to launch.
        "MLX_MAX_MB_PER_BUFFER": "50",
        # MLX's own 400 are too few for a busy engine's shapes; to make one anew takes longer than to run it.
        "MLX_CUDA_GRAPH_CACHE_SIZE": "1000",
        # MLX gives up, by an exception, where more CUDA graphs are made than it means to keep, however long that took.
        "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    }


def _arrays() -> dict[str, str]:
    """How the C library finds memory for arrays where MLX asks it for each one, unless the user says it otherwise.

    From 256 KiB on each is a mapping of its own, so that nothing is left between arrays of ever other sizes: an engine of the
    starter model takes 40 MB less under load. Pages of 2 MiB, where the kernel has them on demand, make up for the faults that
    this costs.
    """
    if not blas.wanted():
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=262144:glibc.malloc.hugetlb=1"}


def discard_kernels(config: EngineConfig) -> None:
    """Forget compiled kernels, after a fault that one of them may have caused.

    For CUDA, MLX keeps them in the temporary folder and later loads whatever it finds there; an engine killed while writing one
    leaves half of it, and each engine after it would fail on that.
    """
    shutil.rmtree(_kernel_dir(config), ignore_errors=True)


def _kernel_dir(config: EngineConfig) -> Path:
    """Private, not the shared /tmp where another user could leave a library for MLX to load."""
    return config.cache_dir / "kernels"
