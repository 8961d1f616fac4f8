"""Errors in Anthropic's envelope."""

from __future__ import annotations

import msgspec

from pensieved.errors import RequestError, RequestErrorKind

_ERRORS = {
    RequestErrorKind.INVALID: ("400 Bad Request", "invalid_request_error"),
    RequestErrorKind.TOO_LONG: ("400 Bad Request", "invalid_request_error"),
    RequestErrorKind.AUTHENTICATION: ("401 Unauthorized", "authentication_error"),
    RequestErrorKind.FORBIDDEN: ("403 Forbidden", "permission_error"),
    RequestErrorKind.NOT_FOUND: ("404 Not Found", "not_found_error"),
    RequestErrorKind.METHOD: ("405 Method Not Allowed", "invalid_request_error"),
    RequestErrorKind.TOO_LARGE: ("413 Content Too Large", "request_too_large"),
    RequestErrorKind.MEDIA_TYPE: ("415 Unsupported Media Type", "invalid_request_error"),
    RequestErrorKind.OVERLOADED: ("529 Overloaded", "overloaded_error"),
    RequestErrorKind.UNAVAILABLE: ("503 Service Unavailable", "api_error"),
    RequestErrorKind.TIMEOUT: ("504 Gateway Timeout", "timeout_error"),
    RequestErrorKind.INTERNAL: ("500 Internal Server Error", "api_error"),
}


class ThreadNotFoundError(RequestError):
    """A conversation that the server should have kept. Nothing is kept here, and so the SDKs send all of it again."""

    details = {"error_code": "thread_not_found"}  # noqa: RUF012  a constant

    def __init__(self) -> None:
        super().__init__(
            RequestErrorKind.NOT_FOUND,
            "Conversations are not kept here: send all messages again",
            path="thread.previous_message_id",
        )


class _Detail(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    details: dict[str, str] | None = None


class _Error(msgspec.Struct, tag_field="type", tag="error"):
    error: _Detail
    request_id: str


def envelope(error: RequestError, request_id: str) -> tuple[str, bytes]:
    """HTTP status line and JSON body; the message begins with the offending field, as Anthropic's do."""
    status, name = _ERRORS[error.kind]
    message = f"{error.path}: {error.what}" if error.path else error.what
    details = error.details if isinstance(error, ThreadNotFoundError) else None
    return status, msgspec.json.encode(_Error(_Detail(name, message, details), request_id))
