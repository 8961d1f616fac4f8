"""GET /v1/models and /v1/models/{id}: one shape that both dialects' clients read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pensieved.errors import RequestError, RequestErrorKind

if TYPE_CHECKING:
    import falcon

    from pensieved.control.serving import ServingModel
    from pensieved.http.daemon import Daemon


class ModelList:
    """GET /v1/models: the resident model, or an empty list while there is none."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """One page; aliases are patterns and are not listed."""
        serving = self._daemon.serving
        models = [_describe(serving, serving.name)] if serving else []
        name = serving.name if serving else None
        resp.data = msgspec.json.encode(
            {"object": "list", "data": models, "has_more": False, "first_id": name, "last_id": name}
        )


class Model:
    """GET /v1/models/{id}: the resident model under any name it answers to."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def on_get(self, _req: falcon.Request, resp: falcon.Response, model_id: str) -> None:
        """`model_id` may hold slashes, plain or percent-encoded; the answer echoes it."""
        serving = self._daemon.serving
        if serving is None or not serving.answers_to(model_id):
            resident = f"the resident model is {serving.name!r}" if serving else "no model is loaded yet"
            raise RequestError(
                RequestErrorKind.NOT_FOUND, f"There is no model {model_id!r} here: {resident}.", path="model"
            )
        resp.data = msgspec.json.encode(_describe(serving, model_id))


def _describe(serving: ServingModel, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "type": "model",
        "display_name": serving.name,
        "created_at": datetime.fromtimestamp(serving.loaded_at, UTC),
        "max_input_tokens": serving.context_length,
        "object": "model",
        "created": int(serving.loaded_at),
        "owned_by": "pensieved",
    }
