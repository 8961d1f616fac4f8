"""Errors in OpenAI's envelope."""

from __future__ import annotations

import msgspec

from pensieved.errors import RequestError, RequestErrorKind

_INVALID = "invalid_request_error"
_OURS = "server_error"

# Status line, type, and the code that OpenAI's clients look for, where there is one.
_ERRORS: dict[RequestErrorKind, tuple[str, str, str | None]] = {
    RequestErrorKind.INVALID: ("400 Bad Request", _INVALID, None),
    RequestErrorKind.TOO_LONG: ("400 Bad Request", _INVALID, "context_length_exceeded"),
    RequestErrorKind.AUTHENTICATION: ("401 Unauthorized", _INVALID, "invalid_api_key"),
    RequestErrorKind.FORBIDDEN: ("403 Forbidden", _INVALID, None),
    RequestErrorKind.NOT_FOUND: ("404 Not Found", _INVALID, "unknown_url"),
    RequestErrorKind.METHOD: ("405 Method Not Allowed", _INVALID, "method_not_supported"),
    RequestErrorKind.TOO_LARGE: ("413 Content Too Large", _INVALID, None),
    RequestErrorKind.MEDIA_TYPE: ("415 Unsupported Media Type", _INVALID, None),
    RequestErrorKind.OVERLOADED: ("503 Service Unavailable", _OURS, "server_is_overloaded"),
    RequestErrorKind.UNAVAILABLE: ("503 Service Unavailable", _OURS, None),
    RequestErrorKind.TIMEOUT: ("504 Gateway Timeout", _OURS, "timeout"),
    RequestErrorKind.INTERNAL: ("500 Internal Server Error", _OURS, None),
}


class ErrorDetail(msgspec.Struct):
    """What is wrong: in words, by kind, by field, by code."""

    message: str
    type: str
    param: str | None
    code: str | None


class _Error(msgspec.Struct):
    error: ErrorDetail


def detail(error: RequestError) -> ErrorDetail:
    """The inner object. A model that is not here has a code of its own."""
    _, kind, code = _ERRORS[error.kind]
    if error.kind is RequestErrorKind.NOT_FOUND and error.path == "model":
        code = "model_not_found"
    return ErrorDetail(error.what, kind, error.path or None, code)


def envelope(error: RequestError, request_id: str) -> tuple[str, bytes]:  # noqa: ARG001  the protocol's
    """HTTP status line and JSON body; the request id is in the headers."""
    return _ERRORS[error.kind][0], msgspec.json.encode(_Error(detail(error)))


def error_line(error: RequestError) -> bytes:
    """What ends a stream of chunks that cannot be completed."""
    return b"data: " + msgspec.json.encode(_Error(detail(error))) + b"\n\n"
