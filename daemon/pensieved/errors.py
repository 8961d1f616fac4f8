"""Every error a user can meet, in one hierarchy.

    PensievedError                  what, why and what next; never a traceback
    ├── UsageError                  the command line or a value on it is wrong (exit 2)
    │   └── ConfigError             the same, for the TOML or the environment: says file, line and key
    ├── PermanentError              trying again is useless until something changes
    │   ├── ModelUnavailableError   missing, gated, private or not at that revision
    │   ├── UnsupportedModelError   an architecture or file format that cannot be served
    │   ├── IntegrityError          bytes are not what their publisher said
    │   ├── PortTakenError          another process listens there
    │   ├── ServiceError            launchd is not there, refused, or runs something else than asked
    │   └── NotRunningError         there is no daemon to talk to (exit 3)
    ├── TemporaryError              trying again may help; `retry_after` seconds if known
    │   ├── SourceUnreachableError  the network or the Hub does not answer
    │   ├── DiskFullError           too little space, with the numbers
    │   └── EngineError             the engine process died, hung or refused
    └── RequestError                one request failed; a dialect turns `kind` into its own envelope

The retry policy is the type's, not the catcher's (`retry_after` on the instance refines it).
"""

from __future__ import annotations

from enum import StrEnum


class PensievedError(Exception):
    """Base of all errors shown to users.

    Args:
        what: one sentence: what failed and why.
        hint: what to do next, or empty.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class UsageError(PensievedError):
    """The caller asked for something that cannot be meant."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type or out of range."""


class PermanentError(PensievedError):
    """Nothing but a change of configuration, account or disk content helps."""


class ModelUnavailableError(PermanentError):
    """The source has no such model, or does not give it to this user."""


class UnsupportedModelError(PermanentError):
    """The model exists but its architecture or format cannot be served."""


class IntegrityError(PermanentError):
    """Bytes differ from what their publisher or our manifest says, and refetching did not help."""


class PortTakenError(PermanentError):
    """Another process listens on the port."""


class ServiceError(PermanentError):
    """The service manager cannot do what was asked of it."""


class NotRunningError(PermanentError):
    """The daemon is not installed, not running or does not answer."""

    exit_code = 3


class TemporaryError(PensievedError):
    """Worth trying again, after `retry_after` seconds where that is known."""

    def __init__(self, what: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.retry_after = retry_after


class SourceUnreachableError(TemporaryError):
    """The network, the Hub or the package index does not answer."""


class DiskFullError(TemporaryError):
    """Less free space than the model needs; the message carries both numbers."""


class EngineError(TemporaryError):
    """The engine process died, hung, or could not load the model."""


class RequestErrorKind(StrEnum):
    """What went wrong with a request, in no dialect's words."""

    INVALID = "invalid"  # the request itself is wrong: 400
    TOO_LONG = "too_long"  # the prompt exceeds the context: 400
    AUTHENTICATION = "authentication"  # no key or a wrong one: 401
    FORBIDDEN = "forbidden"  # a host or an origin that may not come in: 403
    NOT_FOUND = "not_found"  # no such route or model: 404
    METHOD = "method"  # the route exists, the method does not: 405
    TOO_LARGE = "too_large"  # the body is over `server.max_body`: 413
    MEDIA_TYPE = "media_type"  # not JSON: 415
    OVERLOADED = "overloaded"  # every slot and queue place is taken: 529 / 503
    UNAVAILABLE = "unavailable"  # starting, draining or failed: 503
    TIMEOUT = "timeout"  # longer than `server.request_timeout`: 504
    INTERNAL = "internal"  # our fault: 500


class RequestError(PensievedError):
    """One request cannot be answered.

    Args:
        kind: decides the HTTP status in each dialect.
        what: the message the client reads.
        path: the offending field, such as ``messages.0.content``, or empty.
        retry_after: seconds for the Retry-After header, or None for no header.
    """

    def __init__(
        self, kind: RequestErrorKind, what: str, *, path: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.path = path
        self.retry_after = retry_after
