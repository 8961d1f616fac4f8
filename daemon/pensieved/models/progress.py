"""How far a preparation is: what the preparer reports and the daemon shows."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class PrepareStage(StrEnum):
    """Stages of the verified chain, in order."""

    RESOLVING = "resolving"  # pin the commit, list the files
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"  # compare with the publisher's sizes and hashes
    CONVERTING = "converting"  # to MLX, quantized as wanted; ends with the smoke test and the manifest


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of one stage. `done` and `total` in bytes; `rate` in bytes/s; `eta` in seconds."""

    stage: PrepareStage
    detail: str = ""
    done: int = 0
    total: int | None = None
    rate: float | None = None
    eta: float | None = None
