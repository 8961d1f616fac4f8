"""Around the whole app: a request id on every response, and one log line, and one count, when its last byte is written.

A WSGI layer rather than Falcon middleware, because a streamed answer is only over when its iterator is
closed, and because it also covers what goes wrong inside Falcon.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pensieved.http.cachenote import HEADER
from pensieved.http.closing import ClosingBody
from pensieved.http.record import ENVIRON_KEY, RequestRecord, request_id_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pensieved.http.ledger import Ledger

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]
    WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

_LONGEST_PATH = 100  # of an unknown route, in the log


class Observer:
    """Wraps a WSGI app; is one. Requests that are over go into `ledger`."""

    def __init__(self, app: WsgiApp, ledger: Ledger) -> None:
        self._app = app
        self._ledger = ledger

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """PEP 3333."""
        record = RequestRecord(
            method=environ["REQUEST_METHOD"], route=_printable(environ.get("PATH_INFO", "")[:_LONGEST_PATH])
        )
        environ[ENVIRON_KEY] = record

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            record.status = int(status[:3])
            ours = request_id_headers(record.request_id)
            if record.cache_header:
                ours.append((HEADER, record.cache_header))
            return start_response(status, [*headers, *ours], exc_info)

        try:
            body = self._app(environ, start)
        except BaseException:
            self.finish(record)
            raise
        return ClosingBody(body, functools.partial(self.finish, record))

    def finish(self, record: RequestRecord) -> None:
        """Log and count a request that is over, be it one that never came as far as the app."""
        record.emit()
        self._ledger.finish(record)


def _printable(path: str) -> str:
    """A path that cannot move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in path)
