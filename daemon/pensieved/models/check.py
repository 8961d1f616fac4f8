"""Whether a prepared folder still is what its manifest says.

The quick check costs a stat per file and is made at each boot; the full one reads every byte. A file whose
time changed but whose bytes did not fails the quick check and passes the full one: the preparer then only
writes the new time down.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pensieved.models.hashing import sha256_of
from pensieved.models.source import FolderSource, GgufSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.models.manifest import Manifest, ModelFile
    from pensieved.models.source import Source


def quick_faults(folder: Path, manifest: Manifest) -> tuple[ModelFile, ...]:
    """The files that are missing or whose size or time is not the manifest's. Links are followed."""
    return tuple(
        file for file in manifest.files if not _unchanged(folder / file.path, file.size, file.mtime_ns)
    )


def full_faults(
    folder: Path, manifest: Manifest, on_bytes: Callable[[int], object] | None = None
) -> tuple[ModelFile, ...]:
    """The files that are missing or whose bytes are not the manifest's."""
    return tuple(file for file in manifest.files if not _same_bytes(folder / file.path, file, on_bytes))


def source_changed(source: Source, manifest: Manifest) -> bool:
    """Whether a local source was edited since; sources elsewhere are pinned and never are."""
    if not isinstance(source, FolderSource | GgufSource):
        return False
    base = Path(source.path) if isinstance(source, FolderSource) else Path(source.path).parent
    return not all(_unchanged(base / file.path, file.size, file.mtime_ns) for file in manifest.sources)


def _unchanged(path: Path, size: int, mtime_ns: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size, mtime_ns)


def _same_bytes(path: Path, file: ModelFile, on_bytes: Callable[[int], object] | None) -> bool:
    try:
        return path.stat().st_size == file.size and sha256_of(path, on_bytes) == file.sha256
    except OSError:
        return False
