"""The HTTP front of `pensieved run`: serve, then drain at the first signal and cut at the second."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from pensieved import __version__
from pensieved.cli.address import Address, address_of, local_url
from pensieved.cli.announce import announce_phases
from pensieved.cli.signals import EndSignals
from pensieved.cli.tryit import curl_line
from pensieved.control.limits import max_concurrent
from pensieved.http.admission import Admission
from pensieved.http.app import create_app
from pensieved.http.door import Door
from pensieved.http.server import HttpServer, threads_for

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pensieved.control.daemon import Daemon
    from pensieved.settings import Settings

log = structlog.get_logger()

_LAST_WORDS = 5.0  # seconds for cut answers to say that they were
_LOOK = 0.1  # seconds between looks at what still runs


def serve_until_signal(daemon: Daemon, listeners: Sequence[socket.socket]) -> None:
    """Answer HTTP on `listeners` until SIGTERM or SIGINT, then drain."""
    server = daemon.settings.server
    admission = Admission(daemon.max_concurrent, server.max_queued)
    threads = threads_for(admission.max_concurrent, admission.max_queued)
    door = Door(server)
    http = HttpServer(
        create_app(daemon, admission, door),
        listeners,
        threads=threads,
        max_body=server.max_body,
        door=door,
    )
    announce_phases(daemon.status)
    daemon.configuration.subscribe(partial(_resize, admission, http, door))
    with EndSignals(daemon.reload) as signals:
        front = threading.Thread(target=_run, args=(http, signals), name="http")
        front.start()
        try:
            address = replace(
                address_of(server), url=local_url(server.host, http.port)
            )  # port 0 is known now
            sys.stdout.write(_greeting(address, daemon.settings.model.url))
            sys.stdout.flush()
            daemon.start()
            import_module("pensieved.http.answering")  # the model takes longer; see `http.deferred`
            signals.wait()
            _drain(daemon, admission, signals)
        finally:
            http.close()
            front.join()


def _resize(admission: Admission, http: HttpServer, door: Door, settings: Settings) -> None:
    """Bring into force what the front knows of the settings."""
    server = settings.server
    admission.resize(max_concurrent(server), server.max_queued)
    http.resize(threads_for(admission.max_concurrent, admission.max_queued))
    door.update(server)


def _run(http: HttpServer, signals: EndSignals) -> None:
    try:
        http.run()
    finally:
        signals.raise_end()  # a front that broke must end the daemon, not leave it deaf


def _drain(daemon: Daemon, admission: Admission, signals: EndSignals) -> None:
    """Refuse new work; let running answers finish until `drain_timeout` or a second signal."""
    daemon.drain()
    log.info("draining", running=admission.running, queued=admission.queued)
    deadline = time.monotonic() + daemon.settings.server.drain_timeout
    while not admission.wait_idle(_LOOK) and time.monotonic() < deadline and not signals.wait(0):
        pass
    if admission.running or admission.queued:
        log.warning("cut", running=admission.running, queued=admission.queued)
        admission.abort()
        admission.wait_idle(_LAST_WORDS)


def _greeting(address: Address, model: str) -> str:
    return f"""\
pensieved {__version__} listens on {address.url} (model: {model}). Once it is ready, try:

{curl_line(address)}

"""
