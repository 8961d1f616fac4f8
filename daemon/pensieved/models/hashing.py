"""Hashes of files: sha256 for everything of ours and the Hub's large files, git's blob hash for its small ones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CHUNK = 4 * 1024**2


def sha256_of(path: Path, on_bytes: Callable[[int], object] | None = None) -> str:
    """The sha256 of a file's content; `on_bytes` hears how many more bytes were read. Raises OSError."""
    return _digest(path, hashlib.sha256(), on_bytes)


def git_sha1_of(path: Path, on_bytes: Callable[[int], object] | None = None) -> str:
    """The name git gives a file's content: sha1 of ``blob <size>`` NUL content. Raises OSError."""
    header = f"blob {path.stat().st_size}\0".encode()
    return _digest(path, hashlib.sha1(header, usedforsecurity=False), on_bytes)


def _digest(path: Path, digest: hashlib._Hash, on_bytes: Callable[[int], object] | None) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return digest.hexdigest()
