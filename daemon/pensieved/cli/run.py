"""`pensieved run`: the daemon in the foreground.

The order is for speed: what can be refused is refused first (settings, model URL, port), then the engine process
starts importing MLX on another core, and only then does this process import its HTTP server.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pensieved.control.daemon import Daemon
from pensieved.errors import PensievedError
from pensieved.http.activation import copies, inherited_sockets
from pensieved.http.door import check_exposure
from pensieved.http.listen import bind
from pensieved.imports import OPENSSL, uncollected, without
from pensieved.logs import configure_logging
from pensieved.models.source import parse_source
from pensieved.settings import Settings
from pensieved.settings.origin import ConfigOrigin
from pensieved.settings.paths import launchd_label
from pensieved.settings.schema import LoggingSettings

Flag = typer.Option


def run(
    model_url: Annotated[
        str | None, Flag(help="org/name, a Hub URL, a folder, a .gguf file or pypi:PACKAGE.")
    ] = None,
    port: Annotated[int | None, Flag(help="TCP port; 0 lets the system choose.")] = None,
    host: Annotated[str | None, Flag(help="Address to listen on.")] = None,
    revision: Annotated[str | None, Flag(help="Branch, tag or commit on the Hub.")] = None,
    quantization: Annotated[str | None, Flag(help="auto, none, 3bit, 4bit, 5bit, 6bit or 8bit.")] = None,
    cache_dir: Annotated[Path | None, Flag(help="Folder of prepared models.")] = None,
    max_concurrent: Annotated[str | None, Flag(help="Requests that decode together, or auto.")] = None,
    log_level: Annotated[str | None, Flag(help="debug, info, warning or error.")] = None,
    config: Annotated[Path | None, Flag(help="The TOML to read.")] = None,
) -> None:
    """Serve a model in the foreground until SIGTERM or Ctrl-C."""
    flags: dict[str, Any] = {
        "model": {"url": model_url, "revision": revision, "quantization": quantization},
        "server": {"host": host, "port": port, "max_concurrent": max_concurrent},
        "cache": {"dir": cache_dir},
        "logging": {"level": log_level},
    }
    origin, sockets = ConfigOrigin(flags, config), inherited_sockets()
    try:
        serve(origin.load(), origin, sockets)
    except PensievedError as error:
        if launchd_label() is None:
            raise
        failure = error.with_traceback(None)  # its frames would keep the listener open
    else:
        return
    from pensieved.cli.hold import hold  # noqa: PLC0415  only a start that fails needs it

    hold(failure, flags, config, sockets)


def serve(
    settings: Settings, origin: ConfigOrigin | None = None, sockets: Sequence[socket.socket] = ()
) -> None:
    """Run the daemon until a signal; returns when no process of it is left.

    Args:
        settings: as read from `origin`.
        origin: where to read them again, when they change; None: they never do.
        sockets: held by whoever started this process, to be served instead of the configured address.
    """
    check(settings)
    _log_as(settings.logging)
    for each in sockets:  # whoever bound them need not have asked us where
        check_exposure(settings.server.model_copy(update={"host": each.getsockname()[0]}))
    listeners = copies(sockets) or [bind(settings.server.host, settings.server.port)]
    daemon = Daemon(settings, origin, check)
    daemon.configuration.subscribe(_Relog(settings.logging))
    daemon.prestart()
    try:
        with uncollected(), without(*OPENSSL):  # as in `app`; falcon names an HTTP client's types
            from pensieved.cli.front import serve_until_signal  # noqa: PLC0415  after the engine began to import MLX

        serve_until_signal(daemon, listeners)
    finally:
        daemon.stop()


def check(settings: Settings) -> None:
    """What makes settings unfit that are valid by themselves. Raises UsageError."""
    parse_source(settings.model.url, settings.model.revision)
    check_exposure(settings.server)


def _log_as(settings: LoggingSettings) -> None:
    configure_logging(settings.level, settings.format, settings.destination(launchd_label()))


class _Relog:
    """Changes the log while the daemon runs, where the settings of it have changed."""

    def __init__(self, settings: LoggingSettings) -> None:
        self._now = settings

    def __call__(self, settings: Settings) -> None:
        if settings.logging != self._now:
            self._now = settings.logging
            _log_as(self._now)
