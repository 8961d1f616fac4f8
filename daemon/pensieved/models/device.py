"""Which MLX backend this machine will run, told without importing MLX: the port must not wait for it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pensieved.models.manifest import Backend

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_CUDA_WHEELS = ("mlx-cuda-12", "mlx-cuda-13")


def expected_backend(device: str) -> Backend:
    """The backend for the setting `device` (auto, cpu or gpu)."""
    if device == "cpu":
        return "cpu"
    if sys.platform == "darwin":
        return "metal" if device == "gpu" or platform.machine() == "arm64" else "cpu"
    if device == "gpu":
        return "cuda"
    return "cuda" if _NVIDIA_DRIVER.exists() and any(map(_installed, _CUDA_WHEELS)) else "cpu"


def _installed(wheel: str) -> bool:
    try:
        version(wheel)
    except PackageNotFoundError:
        return False
    return True
