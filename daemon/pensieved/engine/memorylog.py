"""What the log says of memory: each change, with its bytes, and nothing while there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pensieved.engine.protocol import MemoryStats

log = structlog.get_logger(__name__)

LITTLE = 16
"""Below this part of the margin it is a pass's scratch, which comes again every second as long as memory is short."""


def tell(before: MemoryStats, now: MemoryStats) -> None:
    """Say what changed from one heartbeat to the next. Sizes in bytes."""
    if now.sheds > before.sheds:
        freed = now.shed - before.shed
        say = log.info if freed * LITTLE >= now.margin else log.debug
        say("memory.shed", freed=freed, available=now.available, safety_margin=now.margin)
    if now.closed and not before.closed:
        log.warning(
            "memory.closed",
            available=now.available,
            safety_margin=now.margin,
            waiting=now.waiting,
            effect="new requests are refused until memory comes back",
        )
    elif before.closed and not now.closed:
        log.info("memory.opened", available=now.available, safety_margin=now.margin)
