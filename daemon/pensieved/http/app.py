"""The WSGI app: routes, and what surrounds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from pensieved.http.anthropic.messages import CountTokens, Messages
from pensieved.http.anthropic.signature import Signer
from pensieved.http.completion import Completions
from pensieved.http.cors import DoorKeeper
from pensieved.http.dialects import envelope_of
from pensieved.http.door import Door
from pensieved.http.errors import ErrorHandlers
from pensieved.http.health import Health, Page, Ready, StatusReport
from pensieved.http.lanes import LaneKeeper, Lanes
from pensieved.http.ledger import Ledger
from pensieved.http.metrics import Metrics, Sources
from pensieved.http.models import Model, ModelList
from pensieved.http.observe import Observer
from pensieved.http.openai.chat.resource import ChatCompletions
from pensieved.http.openai.completions.resource import LegacyCompletions
from pensieved.http.openai.embeddings import Embeddings
from pensieved.http.openai.responses.resource import Responses
from pensieved.http.openapi import OPERATIONS, Document
from pensieved.http.record import record_of
from pensieved.http.reload import Reload
from pensieved.http.vitals import Vitals
from pensieved.settings.paths import state_dir

if TYPE_CHECKING:
    from pensieved.http.admission import Admission
    from pensieved.http.daemon import Daemon


_SPARE_LANES = 4  # of the threads in reserve, those that may read requests which admission then refuses


class _Route:
    """Puts the route's template, not the path with its parameters, into the request's record."""

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, _resource: Any, _params: Any
    ) -> None:
        record_of(req.env).route = (req.uri_template or req.path).replace(":path}", "}")


def create_app(daemon: Daemon, admission: Admission, door: Door | None = None) -> Observer:
    """The app that serves `daemon`.

    Args:
        daemon: what is served.
        admission: slots and queue; also tells whoever shuts down when all is quiet.
        door: who may come in; by default whom the daemon's settings let.
    """
    door = door or Door(daemon.settings.server)
    app = falcon.App(middleware=(DoorKeeper(door), LaneKeeper(), _Route()))
    app.req_options.strip_url_path_trailing_slash = True
    ErrorHandlers(envelope_of).install(app)
    ledger = Ledger({operation.path for operation in OPERATIONS})
    completions = Completions(daemon, admission, ledger)
    sources = Sources(daemon, admission, ledger, Vitals(daemon))
    max_body = daemon.settings.server.max_body
    app.add_route("/", Page(daemon))
    app.add_route("/health", Health(daemon))
    app.add_route("/ready", Ready(daemon))
    app.add_route("/openapi.json", Document())
    app.add_route("/metrics", Metrics(sources))
    app.add_route("/v1/status", StatusReport(sources))
    app.add_route("/v1/reload", Reload(daemon))
    app.add_route("/v1/models", ModelList(daemon))
    app.add_route("/v1/models/{model_id:path}", Model(daemon))
    signer = Signer(state_dir() / "thinking.key")
    app.add_route("/v1/messages", Messages(completions, max_body, signer))
    app.add_route("/v1/messages/count_tokens", CountTokens(completions, max_body, signer))
    app.add_route("/v1/chat/completions", ChatCompletions(completions, max_body))
    app.add_route("/v1/completions", LegacyCompletions(completions, max_body))
    app.add_route("/v1/responses", Responses(completions, max_body))
    app.add_route("/v1/embeddings", Embeddings(completions, max_body))
    return Observer(
        Lanes(app, lambda: admission.max_concurrent + admission.max_queued + _SPARE_LANES), ledger
    )
