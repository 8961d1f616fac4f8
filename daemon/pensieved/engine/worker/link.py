"""The daemon's end of the wire, seen from the engine; and the engine's end when the daemon ends.

Frames are read on a thread of their own, so that the daemon's writes never wait for a decode step. End of stream
means that the daemon went away or wants us gone: the process ends at once, whatever the model is doing.
"""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import threading
from typing import TYPE_CHECKING

from pensieved.engine.protocol import FrameBuffer, FromEngine, ToEngine, decode_to_engine, encode

if TYPE_CHECKING:
    import socket

_READ_SIZE = 1 << 18


def hold_lifeline(fd: int) -> None:
    """Have the kernel kill this process when the other end of pipe `fd` closes, where it can (Linux).

    A thread that reads the socket cannot do it while this process is stopped, or stuck in native code that holds
    the interpreter's lock. Elsewhere that thread must do.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


class Link:
    """Frames from and to the daemon over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def send(self, frame: FromEngine) -> None:
        """Send a frame, waiting while the daemon does not read."""
        self._socket.sendall(encode(frame))

    def receive(self, timeout: float) -> ToEngine | None:
        """The next frame, waiting up to `timeout` seconds; None if there is none."""
        try:
            return self._inbox.get(block=timeout > 0, timeout=timeout)
        except queue.Empty:
            return None

    def _read(self) -> None:
        frames = FrameBuffer()
        try:
            while data := self._socket.recv(_READ_SIZE):
                for body in frames.feed(data):
                    self._inbox.put(decode_to_engine(body))
        finally:  # the daemon is gone, or no longer makes sense
            os._exit(0)
