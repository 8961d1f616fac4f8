"""The WSGI app: routes, and what surrounds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from pensieved.http.anthropic.errors import envelope
from pensieved.http.anthropic.messages import CountTokens, Messages
from pensieved.http.completion import Completions
from pensieved.http.errors import Envelope, ErrorHandlers
from pensieved.http.health import Health, Page, Ready, StatusReport
from pensieved.http.models import Model, ModelList
from pensieved.http.observe import Observer
from pensieved.http.record import record_of

if TYPE_CHECKING:
    from pensieved.http.admission import Admission
    from pensieved.http.daemon import Daemon


def envelope_of(_path: str) -> Envelope:
    """The dialect in which errors on a path are said. All paths so far are Anthropic's or nobody's."""
    return envelope


class _Route:
    """Puts the route's template, not the path with its parameters, into the request's record."""

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, _resource: Any, _params: Any
    ) -> None:
        record_of(req.env).route = req.uri_template or req.path


def create_app(daemon: Daemon, admission: Admission) -> Observer:
    """The app that serves `daemon`; `admission` also tells whoever shuts down when all is quiet."""
    app = falcon.App(middleware=[_Route()])
    app.req_options.strip_url_path_trailing_slash = True
    ErrorHandlers(envelope_of).install(app)
    completions = Completions(daemon, admission)
    max_body = daemon.settings.server.max_body
    app.add_route("/", Page(daemon))
    app.add_route("/health", Health(daemon))
    app.add_route("/ready", Ready(daemon))
    app.add_route("/v1/status", StatusReport(daemon, completions))
    app.add_route("/v1/models", ModelList(daemon))
    app.add_route("/v1/models/{model_id:path}", Model(daemon))
    app.add_route("/v1/messages", Messages(completions, max_body))
    app.add_route("/v1/messages/count_tokens", CountTokens(completions, max_body))
    return Observer(app)
