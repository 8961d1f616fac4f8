"""How long nobody has asked an engine for anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.engine.client import EngineClient


class Idleness:
    """Told from the client's counters, at looks that come about once a second.

    A request that came and went between two looks is seen too: it has raised the number of those submitted.

    Args:
        client: the engine's requests.
        clock: monotonic seconds.
    """

    def __init__(self, client: EngineClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._submitted = -1
        self._since = clock()

    def begin(self) -> None:
        """Count from now."""
        self._since = self._clock()

    def look(self) -> float:
        """Seconds without a request, as far as looks tell."""
        submitted = self._client.submitted
        if self._client.live or submitted != self._submitted:
            self._submitted = submitted
            self._since = self._clock()
        return self._clock() - self._since
