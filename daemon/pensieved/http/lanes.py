"""Lanes: work on requests never takes all threads, so that health, status and metrics always have some.

Answers are bounded by admission, but not what comes before: reading a large body, rendering and tokenizing a
long prompt, and counting tokens, which needs no slot. So the number of POST requests inside the app is bounded
too, a little above what admission lets run and wait; the others are refused at once, without being read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.closing import ClosingBody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import falcon

    from pensieved.http.observe import Environ, StartResponse, WsgiApp

_FULL = "pensieved.full"


class Lanes:
    """Wraps a WSGI app and counts; is one. `most()` POST requests may be in it."""

    def __init__(self, app: WsgiApp, most: Callable[[], int]) -> None:
        self._app = app
        self._most = most
        self._lock = threading.Lock()
        self._inside = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """PEP 3333."""
        if environ["REQUEST_METHOD"] != "POST" or not self._enter(environ):
            return self._app(environ, start_response)
        try:
            return ClosingBody(self._app(environ, start_response), self._leave)
        except BaseException:
            self._leave()
            raise

    def _enter(self, environ: Environ) -> bool:
        with self._lock:
            environ[_FULL] = self._inside >= self._most()
            self._inside += not environ[_FULL]
            return not environ[_FULL]

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1


class LaneKeeper:
    """Middleware: says no to requests for which there is no lane, in words of their dialect."""

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Let it pass or refuse it.

        Raises:
            RequestError: OVERLOADED.
        """
        if req.env.get(_FULL):
            raise RequestError(
                RequestErrorKind.OVERLOADED, "Too many requests are being read at once.", retry_after=1
            )
