"""The door as Falcon middleware: refusals, preflights, and the headers that let a listed page read answers.

CORS is closed: without `server.allowed_origins` no response carries any of these headers, and a preflight is
refused like the request it asks for would be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon

from pensieved.errors import RequestErrorKind

if TYPE_CHECKING:
    from pensieved.http.door import Door

_METHODS = "GET, HEAD, POST, OPTIONS"
_MAX_AGE = "600"  # seconds; a change of the list is felt within ten minutes
_EXPOSED = "request-id, x-request-id, retry-after, x-pensieved-cache"
_HEADERS = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "authorization",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "user-agent",
        "x-api-key",
        "x-client-request-id",
    }
)
_SDK_HEADERS = "x-stainless-"  # the SDKs' own, more with each version


class DoorKeeper:
    """Middleware: asks `door` about each request before it is routed."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Let it pass, answer it as a preflight, or refuse it.

        Raises:
            RequestError: it may not come in.
        """
        origin = req.get_header("origin")
        preflight = is_preflight(req)
        path = "/" if preflight else req.path  # a preflight never carries a key
        refusal = self._door.refusal(path, req.env["SERVER_PROTOCOL"], req.get_header)
        if self._door.admits_origin(origin) and origin is not None:
            resp.set_header("access-control-allow-origin", origin)
            resp.set_header("access-control-expose-headers", _EXPOSED)
            resp.append_header("vary", "origin")
        if refusal is not None:
            if refusal.kind is RequestErrorKind.AUTHENTICATION:
                resp.set_header("www-authenticate", "Bearer")
            raise refusal
        if preflight:
            _answer_preflight(req, resp)


def is_preflight(req: falcon.Request) -> bool:
    """Whether a browser asks on a page's behalf what it may do."""
    return req.method == "OPTIONS" and req.get_header("access-control-request-method") is not None


def _answer_preflight(req: falcon.Request, resp: falcon.Response) -> None:
    wanted = (req.get_header("access-control-request-headers") or "").lower().split(",")
    allowed = [name for name in map(str.strip, wanted) if name in _HEADERS or name.startswith(_SDK_HEADERS)]
    resp.set_header("access-control-allow-methods", _METHODS)
    resp.set_header("access-control-allow-headers", ", ".join(allowed) or ", ".join(sorted(_HEADERS)))
    resp.set_header("access-control-max-age", _MAX_AGE)
    resp.append_header("vary", "access-control-request-headers")
    if req.get_header("access-control-request-private-network") == "true":
        resp.set_header("access-control-allow-private-network", "true")
    resp.status = falcon.HTTP_204
    resp.complete = True
