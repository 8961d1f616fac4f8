"""Errors on their way out: every failure of a request becomes its dialect's envelope, and no traceback leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import falcon
import structlog

from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.answer import ClientGoneError
from pensieved.http.record import record_of

if TYPE_CHECKING:
    from typing import Any

    from pensieved.chat.events import Failure

log = structlog.get_logger()

RETRY_ADVICE = "retry-after"

_CLIENT_GONE = "499 Client Closed Request"  # nginx's number; only the log sees it

_OF_STATUS = {
    400: RequestErrorKind.INVALID,
    404: RequestErrorKind.NOT_FOUND,
    405: RequestErrorKind.METHOD,
    413: RequestErrorKind.TOO_LARGE,
    415: RequestErrorKind.MEDIA_TYPE,
}


class Envelope(Protocol):
    """A dialect's way to say that a request failed."""

    def __call__(self, error: RequestError, request_id: str) -> tuple[str, bytes]:
        """HTTP status line and JSON body."""


class EnvelopeOf(Protocol):
    """Chooses the dialect in which a path's errors are said."""

    def __call__(self, path: str, /) -> Envelope:
        """The envelope for `path`."""


def internal_error() -> RequestError:
    """What a client reads of our own bugs; the log has the rest."""
    return RequestError(RequestErrorKind.INTERNAL, "Internal error. The daemon's log says more.")


def failed(failure: Failure) -> RequestError:
    """The request error for an answer that ended in one."""
    return RequestError(RequestErrorKind(failure.kind), failure.message, retry_after=failure.retry_after)


def of_status(code: int, what: str) -> RequestError:
    """The request error for an HTTP status that a library chose."""
    kind = (
        RequestErrorKind.INVALID
        if code < falcon.http_status_to_code(falcon.HTTP_500)
        else RequestErrorKind.INTERNAL
    )
    return RequestError(_OF_STATUS.get(code, kind), what)


class ErrorHandlers:
    """Falcon's error handlers, all ending in one envelope."""

    def __init__(self, envelope_of: EnvelopeOf) -> None:
        self._envelope_of = envelope_of

    def install(self, app: falcon.App[Any, Any]) -> None:
        """Falcon picks the handler of the nearest class; `Exception` is for whatever nobody thought of."""
        app.add_error_handler(Exception, self._unexpected)
        app.add_error_handler(falcon.HTTPError, self._http)
        app.add_error_handler(RequestError, self._request)
        app.add_error_handler(ClientGoneError, self._gone)

    def write(self, req: falcon.Request, resp: falcon.Response, error: RequestError) -> None:
        """Put `error` into the response."""
        record = record_of(req.env)
        record.error = error.kind.value
        resp.status, resp.data = self._envelope_of(req.path)(error, record.request_id)
        resp.content_type = falcon.MEDIA_JSON
        if error.retry_after is not None:
            resp.set_header(RETRY_ADVICE, str(round(error.retry_after)))

    def _request(self, req: falcon.Request, resp: falcon.Response, error: RequestError, _params: Any) -> None:
        self.write(req, resp, error)

    def _http(
        self, req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _params: Any
    ) -> None:
        if error.headers is not None:
            resp.set_headers(error.headers)
        self.write(req, resp, of_status(error.status_code, _explain(req, error)))

    def _gone(self, req: falcon.Request, resp: falcon.Response, _error: Exception, _params: Any) -> None:
        record_of(req.env).error = "client_gone"
        resp.status = _CLIENT_GONE

    def _unexpected(self, req: falcon.Request, resp: falcon.Response, error: Exception, _params: Any) -> None:
        log.error("request failed", request_id=record_of(req.env).request_id, exc_info=error)
        self.write(req, resp, internal_error())


def _explain(req: falcon.Request, error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPNotFound | falcon.HTTPRouteNotFound):
        return f"There is no route {req.method} {req.path}."
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        allowed = dict(error.headers or {}).get("Allow", "")
        return f"{req.path} does not take {req.method}; it takes {allowed}."
    return error.description or error.title or "The request is malformed."
