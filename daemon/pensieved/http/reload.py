"""POST /v1/reload: read the configuration again, now, and hear what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import falcon

    from pensieved.http.daemon import Daemon


class Reload:
    """The same that SIGHUP does, with an answer."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def on_post(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """200 and the report; also where the configuration was refused, which `error` in it says."""
        resp.data = msgspec.json.encode(self._daemon.reload())
