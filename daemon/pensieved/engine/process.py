"""One life of the engine process: spawn it, exchange frames, notice its end, leave nothing behind.

All I/O of a life happens in `pump`, on one thread, with a selector: frames in, frames out, the child's stderr, and
the clock for silence. Nothing there blocks, so neither side can wait for the other's full socket; `send` only
queues. The child cannot outlive the daemon: it holds the reading end of a pipe, the lifeline, whose other end only
the daemon has, and dies when the kernel closes that, however the daemon ended.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import msgspec

from pensieved.engine.blame import FROM_OUTSIDE, OWN_DOING
from pensieved.engine.output import OutputLog
from pensieved.engine.protocol import Fault, FrameBuffer, FromEngine, ToEngine, decode_from_engine, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_READ_SIZE = 1 << 18
_OUTSIDE_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot; 0 where it does not say.

    Source: ``oom_kill`` in proc_vmstat, counted by Linux ≥ 4.13 for the machine's and for containers' limits.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@dataclass(frozen=True)
class Ending:
    """How a life ended. `returncode` as subprocess gives it; `tail` the last lines of stderr."""

    returncode: int
    hung: bool
    asked: bool
    out_of_memory: bool
    fault: Fault | None
    tail: tuple[str, ...] = ()

    @property
    def weight(self) -> float:
        """What it counts against the requests (see `blame`)."""
        own = self.hung or self.fault is not None or self.out_of_memory
        return OWN_DOING if own or -self.returncode not in _OUTSIDE_SIGNALS else FROM_OUTSIDE

    @property
    def reason(self) -> str:
        """For people: what happened."""
        if self.fault is not None:
            return self.fault.message
        if self.out_of_memory:
            return "the system ran out of memory and killed the engine"
        if self.hung:
            return "the engine gave no sign of life and was killed"
        if self.returncode < 0:
            return f"the engine was ended by {signal.Signals(-self.returncode).name}"
        return f"the engine exited with code {self.returncode}"


class EngineProcess:
    """A child process that speaks the protocol.

    Args:
        command: program and arguments; ``--fd N --lifeline N`` are appended.
        env: its whole environment.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [*command, "--fd", str(theirs.fileno()), "--lifeline", str(lifeline_read)],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(), lifeline_read),
                    start_new_session=True,  # a Ctrl-C on the terminal is for the daemon, which drains first
                )
            except OSError:
                ours.close()
                os.close(self._lifeline)
                raise
            finally:
                os.close(lifeline_read)
        self._socket = ours
        self._stdout = cast("IO[bytes]", self._child.stdout)
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._lock = threading.Lock()
        self._outbox: deque[bytes] = deque()
        self._over = False
        self._asked = False
        self._hung = False
        self._fault: Fault | None = None
        self._frames = FrameBuffer()
        self._output = OutputLog(self._child.pid)

    @property
    def pid(self) -> int:
        """The child's process id, which is also its process group."""
        return self._child.pid

    def send(self, frame: ToEngine) -> None:
        """Queue a frame; never blocks, and does nothing once the life is over."""
        data = encode(frame)
        with self._lock:
            if not self._over:
                self._outbox.append(data)
                self._wake()

    def finish(self) -> None:
        """Ask the child to exit; `pump` then ends soon."""
        with self._lock:
            self._asked = True
            if not self._over:
                with contextlib.suppress(OSError):  # it has gone by itself
                    self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End the child now; `pump` then returns."""
        with self._lock:
            self._asked = True
            self._kill_group()

    def pump(self, on_frame: Callable[[FromEngine], None], patience: Callable[[], float]) -> Ending:
        """Exchange frames until the child is gone, and reap it.

        Args:
            on_frame: called for each frame, in order; must not block.
            patience: seconds of silence after which the child counts as hung.
        """
        oom_kills_before = oom_kills()
        self._socket.setblocking(False)
        os.set_blocking(self._stdout.fileno(), False)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._stdout, selectors.EVENT_READ)
                selector.register(self._wake_read, selectors.EVENT_READ)
                selector.register(self._socket, selectors.EVENT_READ)
                self._exchange(selector, on_frame, patience)
        finally:
            returncode = self._bury()
        return Ending(
            returncode=returncode,
            hung=self._hung,
            asked=self._asked,
            out_of_memory=returncode == -signal.SIGKILL and not self._hung and oom_kills() > oom_kills_before,
            fault=self._fault,
            tail=self._output.tail,
        )

    def _exchange(
        self,
        selector: selectors.BaseSelector,
        on_frame: Callable[[FromEngine], None],
        patience: Callable[[], float],
    ) -> None:
        heard = time.monotonic()
        while True:
            ready = {
                key.fileobj for key, _ in selector.select(max(0.0, heard + patience() - time.monotonic()))
            }
            if self._stdout in ready and not self._read_text():
                selector.unregister(self._stdout)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            # Reading comes before judging: after the daemon itself was stopped, the signs of life lie waiting.
            received = self._receive(on_frame) if self._socket in ready else 0
            if received is None:
                return
            if received:
                heard = time.monotonic()
            elif time.monotonic() - heard >= patience():
                self._hung = True
                return
            blocked = self._flush()
            selector.modify(self._socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0))

    def _receive(self, on_frame: Callable[[FromEngine], None]) -> int | None:
        """Bytes received, or None at the end of the stream."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError:
            return None
        if not data:
            return None
        for body in self._frames.feed(data):
            try:
                frame = decode_from_engine(body)
            except msgspec.DecodeError as error:
                frame = Fault(f"the engine sent what is no frame: {error}")
            if isinstance(frame, Fault):
                self._fault = frame
                return None
            on_frame(frame)
        return len(data)

    def _flush(self) -> bool:
        """Write what is queued; True if the socket would not take all of it."""
        with self._lock:
            while self._outbox:
                try:
                    sent = self._socket.send(self._outbox[0])
                except BlockingIOError:
                    return True
                except OSError:  # the child is going; reading will say so
                    self._outbox.clear()
                    return False
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                    return True
                self._outbox.popleft()
        return False

    def _read_text(self) -> bool:
        """Forward what the child and its libraries print; False at its end."""
        try:
            data = os.read(self._stdout.fileno(), _READ_SIZE)
        except BlockingIOError:
            return True
        self._output.feed(data)
        return bool(data)

    def _bury(self) -> int:
        """Leave no process, no descriptor and no group member; returns the exit status.

        A child whose end of the socket is closed is already exiting with a status of its own, which the signal
        does not change; helpers it started (a compiler) share its group.
        """
        with self._lock:
            self._kill_group()
            self._over = True
            self._outbox.clear()
        returncode = self._child.wait()
        self._read_text()
        self._stdout.close()
        self._socket.close()
        for fd in (self._lifeline, self._wake_read, self._wake_write):
            os.close(fd)
        return returncode

    def _kill_group(self) -> None:
        """SIGKILL to the child's group; the lock is held, and the child not reaped before `_over`."""
        if not self._over:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of wake-ups is awake enough
            os.write(self._wake_write, b"\0")
