"""What an engine that nobody asks gives back.

Freed buffers are kept while there are requests, since the next pass wants the same. Once there have been none for a while, they
are the user's memory in use for nothing: up to a gigabyte on Metal. To have them back takes milliseconds.
"""

from __future__ import annotations

import time

from pensieved.engine.worker.memory.device import give_back
from pensieved.engine.worker.passes.kernels.device import on_cuda

REST = 10.0
"""Seconds without a request after which one need not be expected at once. Whoever runs tools in between is back sooner."""


class Rest:
    """Knows how long there was nothing to do, and gives back what was freed: once, until there is something again.

    Not on CUDA: that memory is the GPU's alone, and its driver takes longer to find some again.
    """

    def __init__(self) -> None:
        self._worked, self._holds = time.monotonic(), True

    def look(self, *, busy: bool) -> None:
        """Tell it whether there is anything to do now; call it at least every second."""
        if busy:
            self._worked, self._holds = time.monotonic(), True
        elif self._holds and time.monotonic() - self._worked >= REST:
            self._holds = False
            if not on_cuda():
                give_back()
