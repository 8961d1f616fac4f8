"""Under launchd, a daemon that cannot start stays up and says why.

launchd starts again whatever ends with an error, for ever, and knows no exit code for "not until something has
changed". So the process does not end: it answers /health with `failed` and the reason, on the port that is
configured where that is still legible, looks every second whether the reason is gone, and then becomes the daemon
by `exec`. launchd sees one process all along.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from pensieved.cli.signals import EndSignals
from pensieved.control.reload import ConfigReport
from pensieved.control.status import Phase, StatusBoard
from pensieved.errors import PensievedError
from pensieved.http.activation import copies, pass_on
from pensieved.http.admission import Admission
from pensieved.http.app import create_app
from pensieved.http.door import check_exposure
from pensieved.http.listen import bind
from pensieved.http.server import HttpServer, threads_for
from pensieved.logs import configure_logging
from pensieved.models.source import parse_source
from pensieved.settings.load import load_settings, salvaged_settings
from pensieved.settings.paths import launchd_label

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pensieved.settings import Settings

log = structlog.get_logger()

_LOOK = 1.0


class HeldDaemon:
    """The control plane of a daemon that has none: it is `failed`, and serves nothing."""

    serving = None
    settled = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.status = StatusBoard()
        self.started_at = time.time()

    def engine_stats(self) -> None:
        """There is no engine."""

    @property
    def config_report(self) -> ConfigReport:
        """Nothing is in force: what is wrong is looked at again every second."""
        now = self.status.current
        return ConfigReport(path=None, read_at=time.time(), error=now.error, hint=now.hint)

    def reload(self) -> ConfigReport:
        """Says what still is wrong."""
        return self.config_report

    def fail(self, error: PensievedError) -> None:
        """Say why; once for each reason."""
        if self.status.current.error != error.what:
            log.error("cannot start", reason=error.what, hint=error.hint)
            self.status.enter(Phase.FAILED, error=error.what, hint=error.hint)


def hold(
    error: PensievedError,
    flags: Mapping[str, Any],
    config: Path | None,
    sockets: Sequence[socket.socket] = (),
) -> None:
    """Stay up with `error` until it is mended, then start anew; returns when told to end.

    Args:
        error: why the daemon could not start.
        flags: of the command line, as `load_settings` takes them.
        config: the TOML named there.
        sockets: held by whoever started this process.
    """
    settings = _harmless(salvaged_settings(flags, config))
    logging = settings.logging
    configure_logging(logging.level, logging.format, logging.destination(launchd_label()))
    daemon = HeldDaemon(settings)
    daemon.fail(error)
    with EndSignals() as signals, _answering(daemon, sockets) as address:
        while not signals.wait(_LOOK):
            obstacle = _obstacle(flags, config, address, activated=bool(sockets))
            if obstacle is None:
                break
            daemon.fail(obstacle)
        else:
            return
    log.info("starting anew", pid=os.getpid())
    pass_on(sockets)
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606  the very command that this process was started with


def _obstacle(
    flags: Mapping[str, Any], config: Path | None, ours: tuple[str, int] | None, *, activated: bool
) -> PensievedError | None:
    """What stands in the way of a start now, or None."""
    try:
        settings = load_settings(flags, config)
        parse_source(settings.model.url, settings.model.revision)
        check_exposure(settings.server)
        if not activated and (settings.server.host, settings.server.port) != ours:
            bind(settings.server.host, settings.server.port).close()
    except PensievedError as error:
        return error
    return None


@contextlib.contextmanager
def _answering(daemon: HeldDaemon, sockets: Sequence[socket.socket]) -> Iterator[tuple[str, int] | None]:
    """HTTP while inside; yields where it listens, None where somebody else does."""
    server = daemon.settings.server
    try:
        listeners = copies(sockets) or [bind(server.host, server.port)]
    except PensievedError:
        yield None
        return
    admission = Admission(max_concurrent=1, max_queued=0)
    app = create_app(daemon, admission)
    http = HttpServer(app, listeners, threads=threads_for(1, 0), max_body=server.max_body)
    front = threading.Thread(target=http.run, name="http")
    front.start()
    try:
        yield server.host, server.port
    finally:
        http.close()
        front.join()


def _harmless(settings: Settings) -> Settings:
    """The same, but on loopback and without keys where the configured exposure is the very thing that is wrong."""
    try:
        check_exposure(settings.server)
    except PensievedError:
        alone = {"host": "127.0.0.1", "api_keys": (), "api_keys_file": None}
        return settings.model_copy(update={"server": settings.server.model_copy(update=alone)})
    return settings
