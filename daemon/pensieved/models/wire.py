"""What the daemon and the preparer process say to each other: one job in, one JSON line per event out.

Both ends are the same package version, so there is no negotiation. Errors cross as the name of their class
and its fields, and are raised on the daemon's side as what they were.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pensieved import errors
from pensieved.models.manifest import Backend
from pensieved.models.progress import Progress
from pensieved.models.source import Source


class Retries(msgspec.Struct, frozen=True):
    """How patient the preparer is: `attempts` in a row without a byte of progress, delays in seconds."""

    attempts: int = 6
    first_delay: float = 0.5
    longest_delay: float = 20.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to prepare, and where."""

    source: Source
    quantization: str
    backend: Backend
    cache_dir: str
    trust_remote_code: bool
    verify: Literal["quick", "full"]
    refresh: bool
    retries: Retries


class Moved(msgspec.Struct, frozen=True, tag="progress"):
    """The preparation got further."""

    progress: Progress


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Something worth a line in the log."""

    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The prepared folder is at `path`."""

    path: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The preparer met an error of errors.py."""

    error: str
    what: str
    hint: str
    retry_after: float | None


Event = Moved | Note | Done | Failed

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_job_decoder = msgspec.json.Decoder(Job)


def encode_line(message: Job | Event) -> bytes:
    """The message as one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_event(line: bytes) -> Event:
    """The event in a line. Raises msgspec.DecodeError."""
    event: Event = _decoder.decode(line)
    return event


def decode_job(line: bytes) -> Job:
    """The job in a line. Raises msgspec.DecodeError."""
    return _job_decoder.decode(line)


def failed(error: errors.PensievedError) -> Failed:
    """The error as a message."""
    return Failed(type(error).__name__, error.what, error.hint, getattr(error, "retry_after", None))


def revive(event: Failed) -> errors.PensievedError:
    """The error that the message carries."""
    kind = getattr(errors, event.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.TemporaryError):
        return kind(event.what, hint=event.hint, retry_after=event.retry_after)
    if isinstance(kind, type) and issubclass(kind, errors.PensievedError) and kind is not errors.RequestError:
        return kind(event.what, hint=event.hint)
    return errors.PensievedError(event.what, hint=event.hint)
