"""Routes whose modules are imported behind the port.

What dialects know of requests and answers is half of what the front imports, and nobody can be answered before a model is
loaded. So the port does not wait for it: it is imported when the port is up, and a request that comes even earlier waits
for that import.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import falcon

    from pensieved.http.answering import Posted

ROUTES = (
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
)


class Answering:
    """The resources that take prompts, made once. `make` imports and makes them."""

    def __init__(self, make: Callable[[], Mapping[str, Posted]]) -> None:
        self._make = make
        self._made: Mapping[str, Posted] | None = None
        self._making = threading.Lock()

    def resource(self, route: str) -> Posted:
        """The one at `route`."""
        if self._made is None:
            with self._making:
                self._made = self._made or self._make()
        return self._made[route]


class PromptRoute:
    """What is POSTed to one of `ROUTES`."""

    def __init__(self, answering: Answering, route: str) -> None:
        self._answering = answering
        self._route = route

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """As the route's own resource does."""
        self._answering.resource(self._route).on_post(req, resp)


class Document:
    """GET /openapi.json, which is made of all dialects' structs."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The same bytes each time."""
        from pensieved.http.openapi import Document as Made  # noqa: PLC0415  see above

        Made().on_get(req, resp)
