"""POST /v1/embeddings: a clear no. The resident model generates text; its vectors would be nobody's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.jsonbody import read_json
from pensieved.http.openai.schema import ModelName
from pensieved.http.record import record_of

if TYPE_CHECKING:
    import falcon

    from pensieved.http.completion import Completions


class EmbeddingsRequest(msgspec.Struct):
    """What is looked at."""

    model: ModelName


_decoder = msgspec.json.Decoder(EmbeddingsRequest)


class Embeddings:
    """POST /v1/embeddings."""

    def __init__(self, completions: Completions, max_body: int) -> None:
        self._completions = completions
        self._max_body = max_body

    def on_post(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Refuse: 404 for a model that is not here, as for an embedding model's name; 400 for the one that is."""
        request = read_json(req, _decoder, self._max_body)
        record_of(req.env).model = request.model
        resident = self._completions.resident(request.model)
        raise RequestError(
            RequestErrorKind.INVALID,
            f"The model {resident.name!r} generates text and makes no embeddings; use a server with an embedding model for these.",
            path="model",
        )
