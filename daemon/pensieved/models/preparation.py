"""The daemon's side of preparing a model: the cheap check at boot, and the child process that does the rest.

`find_prepared` starts nothing and asks no network: it is what makes a second start fast and an offline one
possible. `prepare` runs the verified chain in a process of its own, which can be killed at any instant and
whose memory goes back to the system with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self, cast

import msgspec
import structlog

from pensieved.errors import PensievedError, TemporaryError
from pensieved.models.cache import Lease, ModelCache, cache_key
from pensieved.models.check import full_faults, quick_faults, source_changed
from pensieved.models.device import expected_backend
from pensieved.models.manifest import Manifest, read_manifest
from pensieved.models.wire import Done, Failed, Job, Moved, Note, Retries, decode_event, encode_line, revive

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.models.progress import Progress
    from pensieved.models.source import Source
    from pensieved.models.wire import Event

log = structlog.get_logger()

_CANCEL_CHECK_SECONDS = 0.2
_COMPLAINT_LINES = 20
_LAST_WORDS_SECONDS = 5.0


class PreparationCancelledError(PensievedError):
    """The caller's `cancel` was set; what was fetched so far is resumed next time."""


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """Which model, for what device, into which cache.

    Args:
        source: from `parse_source`.
        quantization: a value of `[model] quantization`.
        device: a value of `[engine] device`.
        cache_dir: the folder of prepared models; made when needed.
        trust_remote_code: allow code that the model brings along.
        verify: how much of an existing folder is checked.
        refresh: resolve the revision anew and fetch what it points to now.
        retries: how patient to be with the source.
    """

    source: Source
    cache_dir: Path
    quantization: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    verify: Literal["quick", "full"] = "quick"
    refresh: bool = False
    retries: Retries = field(default_factory=Retries)

    @property
    def key(self) -> str:
        """The model's folder name in the cache."""
        return cache_key(self.source, self.quantization, expected_backend(self.device))


@dataclass(frozen=True)
class PreparedModel:
    """A folder that mlx-lm can load. It is not deleted while this object lives or `lease` is held."""

    path: Path
    manifest: Manifest
    lease: Lease = field(repr=False, compare=False)


def find_prepared(request: PrepareRequest) -> PreparedModel | None:
    """The model, if it lies in the cache and is what its manifest says; None where `prepare` has work to do."""
    folder = ModelCache(request.cache_dir).current(request.key)
    manifest = read_manifest(folder) if folder else None
    if folder is None or manifest is None:
        return None
    if source_changed(request.source, manifest) or manifest.trust_remote_code > request.trust_remote_code:
        return None
    try:
        lease = Lease(folder)
    except OSError:
        return None
    faults = full_faults(folder, manifest) if request.verify == "full" else quick_faults(folder, manifest)
    if faults:
        log.warning("prepared model is damaged", model=manifest.name, files=[file.path for file in faults])
        lease.release()
        return None
    return PreparedModel(folder, manifest, lease)


def prepare(
    request: PrepareRequest,
    on_progress: Callable[[Progress], object],
    cancel: threading.Event,
    on_note: Callable[[str], object] | None = None,
) -> PreparedModel:
    """Fetch, verify and convert the model, or repair or update what is there.

    Args:
        request: what to prepare.
        on_progress: called on this thread, about four times a second.
        cancel: set it from another thread to kill the preparation.
        on_note: hears what is worth a line in the log; the log by default.

    Raises:
        PensievedError: as the preparer met it; its type says whether to try again.
        PreparationCancelledError: `cancel` was set.
    """
    say = on_note if on_note is not None else _log_note
    with _Preparer(_job(request)) as preparer:
        while True:
            if cancel.is_set():
                raise PreparationCancelledError(f"Preparing {request.source.name} was cancelled.")
            match preparer.next_event():
                case Moved(progress):
                    on_progress(progress)
                case Note(text):
                    say(text)
                case Failed() as failure:
                    raise revive(failure)
                case Done(path):
                    return _prepared(Path(path))
                case None:
                    continue


def _job(request: PrepareRequest) -> Job:
    return Job(
        source=request.source,
        quantization=request.quantization,
        backend=expected_backend(request.device),
        cache_dir=str(request.cache_dir),
        trust_remote_code=request.trust_remote_code,
        verify=request.verify,
        refresh=request.refresh,
        retries=request.retries,
    )


def _prepared(folder: Path) -> PreparedModel:
    manifest = read_manifest(folder)
    try:
        lease = Lease(folder)
    except OSError:
        manifest = None
    if manifest is None:
        raise TemporaryError(f"{folder} was removed as soon as it was prepared.", hint="Try again.")
    return PreparedModel(folder, manifest, lease)


def _log_note(text: str) -> None:
    log.info(text)


class _Preparer:
    """The child process. Leaving the context kills it and whatever it started."""

    def __init__(self, job: Job) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._complaints: deque[str] = deque(maxlen=_COMPLAINT_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pensieved.models.preparer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # one group to kill, pip included; Ctrl-C reaches us, and we end it
        )
        # Popen types its pipes as optional; these three exist.
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._stderr = cast("IO[bytes]", self._process.stderr)
        self._events_reader = threading.Thread(target=self._read_events, name="preparer events", daemon=True)
        self._stderr_reader = threading.Thread(target=self._read_stderr, name="preparer stderr", daemon=True)
        self._events_reader.start()
        self._stderr_reader.start()
        with contextlib.suppress(BrokenPipeError):  # it died at once: its stderr says why
            self._stdin.write(encode_line(job))
            self._stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._events_reader.join()
        self._stderr_reader.join()
        for stream in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def next_event(self) -> Event | None:
        """The next event, or None if there is none for now.

        Raises:
            TemporaryError: the process ended without a verdict.
        """
        try:
            event = self._events.get(timeout=_CANCEL_CHECK_SECONDS)
        except queue.Empty:
            return None
        if event is None:
            raise self._died()
        return event

    def _end(self) -> None:
        if self._process.returncode is None:  # not reaped, so its number still is its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _died(self) -> TemporaryError:
        self._stderr_reader.join(_LAST_WORDS_SECONDS)
        self._end()
        code = self._process.returncode
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        last = next((line for line in reversed(self._complaints) if line), "it said nothing")
        log.error("preparer died", status=code, stderr="\n".join(self._complaints))
        return TemporaryError(
            f"The process that prepares the model {ending} ({last}).", hint="The log has more."
        )

    def _read_events(self) -> None:
        for line in self._stdout:
            try:
                self._events.put(decode_event(line))
            except msgspec.DecodeError:  # half a line of a killed process
                break
        self._events.put(None)

    def _read_stderr(self) -> None:
        for line in self._stderr:
            self._complaints.append(line.decode(errors="replace").strip())
