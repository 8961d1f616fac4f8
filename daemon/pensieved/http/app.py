"""The WSGI app: routes, and what surrounds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from pensieved.http.cors import DoorKeeper
from pensieved.http.deferred import ROUTES, Answering, Document, PromptRoute
from pensieved.http.dialects import envelope_of
from pensieved.http.door import Door
from pensieved.http.errors import ErrorHandlers
from pensieved.http.health import Health, Page, Ready, StatusReport
from pensieved.http.lanes import LaneKeeper, Lanes
from pensieved.http.ledger import Ledger
from pensieved.http.metrics import Metrics, Sources
from pensieved.http.models import Model, ModelList
from pensieved.http.observe import Observer
from pensieved.http.record import record_of
from pensieved.http.reload import Reload
from pensieved.http.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pensieved.http.admission import Admission
    from pensieved.http.answering import Posted
    from pensieved.http.daemon import Daemon


_SPARE_LANES = 4  # of the threads in reserve, those that may read requests which admission then refuses


class _Route:
    """Puts the route's template, not the path with its parameters, into the request's record."""

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, _resource: Any, _params: Any
    ) -> None:
        record_of(req.env).route = _template(req.uri_template or req.path)


def _template(route: str) -> str:
    """As documents and metrics write it, without falcon's converter."""
    return route.replace(":path}", "}")


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
    ledger = Ledger()
    sources = Sources(daemon, admission, ledger, Vitals(daemon))
    answering = Answering(lambda: _resources(daemon, admission, ledger))
    routes: dict[str, Any] = {
        "/": Page(daemon),
        "/health": Health(daemon),
        "/ready": Ready(daemon),
        "/openapi.json": Document(),
        "/metrics": Metrics(sources),
        "/v1/status": StatusReport(sources),
        "/v1/reload": Reload(daemon),
        "/v1/models": ModelList(daemon),
        "/v1/models/{model_id:path}": Model(daemon),
        **{route: PromptRoute(answering, route) for route in ROUTES},
    }
    ledger.routes = frozenset(map(_template, routes))
    for route, resource in routes.items():
        app.add_route(route, resource)
    return Observer(
        Lanes(app, lambda: admission.max_concurrent + admission.max_queued + _SPARE_LANES), ledger
    )


def _resources(daemon: Daemon, admission: Admission, ledger: Ledger) -> Mapping[str, Posted]:
    from pensieved.http.answering import resources  # noqa: PLC0415  see `deferred`

    return resources(daemon, admission, ledger)
