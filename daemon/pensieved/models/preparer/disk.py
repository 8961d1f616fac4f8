"""Free space, asked before it is needed: half a model is no use to anyone."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pensieved.errors import DiskFullError
from pensieved.settings.units import format_size

if TYPE_CHECKING:
    from pathlib import Path

_MARGIN = 32 * 1024**2  # for everything small: locks, tokenizers, manifests


def free_bytes(folder: Path) -> int:
    """Bytes free for us on the volume that `folder` is or will be on."""
    return shutil.disk_usage(_existing(folder)).free


def require_space(needs: dict[Path, int]) -> None:
    """Check that every folder has room for its bytes; folders on one volume share it.

    Raises:
        DiskFullError: with both numbers.
    """
    volumes: dict[int, tuple[Path, int]] = {}
    for folder, size in needs.items():
        device = _existing(folder).stat().st_dev
        first, sum_before = volumes.get(device, (folder, 0))
        volumes[device] = (first, sum_before + size)
    for folder, size in volumes.values():
        available = free_bytes(folder)
        if size and size + _MARGIN > available:
            raise DiskFullError(
                f"The model needs {format_size(size + _MARGIN)} of disk below {folder}, "
                f"and {format_size(available)} are free.",
                hint="Free some space, or put [cache] dir and HF_HOME on a larger disk.",
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
