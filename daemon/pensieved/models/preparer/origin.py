"""What every kind of source offers to the chain: a pinned list of files, and those files, verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from pensieved.models.manifest import SourceFile


@dataclass(frozen=True)
class Resolution:
    """A source at one moment: `commit` and `files` pin every byte of it. Local sources have no commit."""

    commit: str
    files: tuple[SourceFile, ...]
    format: Literal["safetensors", "gguf"]


class Origin(Protocol):
    """One source, as the chain uses it."""

    linkable: bool
    """Whether the acquired files stay where they are, so that a prepared folder may link to them."""

    def resolve(self) -> Resolution:
        """Pin the source. Raises PensievedError."""

    def room(self, resolution: Resolution) -> dict[Path, int]:
        """Bytes that acquiring will still take, by folder."""

    def acquire(self, resolution: Resolution, names: Collection[str] | None = None) -> Path:
        """Have these files (all by default) here and verified; returns the folder that they lie in.

        Whatever is here already is hashed too, and fetched again if it is not what was published.

        Raises:
            PensievedError: by kind of failure.
        """
