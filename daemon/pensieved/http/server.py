"""Waitress, wrapped: pre-bound sockets, enough threads, and an end that cuts nobody off.

Waitress' own way to stop is an exception in its main loop, after which answers that are being written are
lost. Here `close` lets threads finish and buffers drain, for a short while, before sockets are closed.
Refusing new work and waiting for long answers come before that and are `admission`'s and the caller's.
"""

from __future__ import annotations

import functools
import logging
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

from pensieved import __version__
from pensieved.http.channel import channel_class, connections
from pensieved.http.dialects import envelope_of
from pensieved.http.jsonbody import too_large
from pensieved.http.observe import Observer
from pensieved.http.record import RequestRecord
from pensieved.http.threads import Threads

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pensieved.http.door import Door
    from pensieved.http.observe import WsgiApp

RESERVE = 8
"""Threads beyond running and waiting requests, so that health and status always answer: see `lanes`."""

_IDLE_CONNECTIONS = 512
_SPARE_FILES = 128  # for logs, the engine, the preparer's downloads
_ACCEPTED_AT_ONCE = 64
_MAX_HEADER = 64 * 1024
_CLOSE_SECONDS = 5.0
_LOOP_SECONDS = 0.5


def threads_for(max_concurrent: int, max_queued: int) -> int:
    """Each request that runs or waits holds one thread."""
    return max_concurrent + max_queued + RESERVE


def most_connections(wanted: int) -> int:
    """How many of `wanted` connections the process may have open; raises its own limit where it can.

    macOS gives 256 files to whatever it starts; a process may ask for more, up to the hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _SPARE_FILES))


def _accept_many(listener: BaseWSGIServer) -> None:
    """Take what waits to be connected, up to a bound.

    Waitress takes one for each look at all connections, so that a thousand newcomers keep everybody waiting.
    """
    for _ in range(_ACCEPTED_AT_ONCE):
        opened = listener.channel_class.opened
        type(listener).handle_accept(listener)
        if listener.channel_class.opened == opened:
            return


class HttpServer:
    """Serves `app` on listening sockets, which it owns from now on.

    Args:
        app: a WSGI app; an `Observer` is told of requests, too, that are refused before they reach it.
        sockets: bound TCP sockets.
        threads: see `threads_for`.
        max_body: bytes; anything larger is refused unread.
        door: refuses by their headers those large bodies that the app would refuse anyway.
    """

    def __init__(
        self,
        app: WsgiApp,
        sockets: Sequence[socket.socket],
        *,
        threads: int,
        max_body: int,
        door: Door | None = None,
    ) -> None:
        room = most_connections(threads + _IDLE_CONNECTIONS)
        logging.getLogger("waitress.queue").setLevel(
            logging.ERROR
        )  # one line for each that waits: anybody's to flood
        self._map: dict[int, Any] = {}
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._wake = threading.RLock()  # a signal handler may come while its own thread holds it
        self._is_awake = True
        create_server(
            app,
            map=self._map,
            sockets=list(sockets),
            _dispatcher=Threads(threads),  # else it starts its own, all of them at once
            ident=f"pensieved/{__version__}",
            connection_limit=room + _SPARE_FILES // 2,  # Waitress' own limit, at which it goes deaf
            backlog=1024,
            asyncore_use_poll=True,
            channel_request_lookahead=1,  # or a client's going away is not noticed
            channel_timeout=120,
            max_request_header_size=_MAX_HEADER,
            max_request_body_size=max_body + 1,  # Waitress refuses from this size on
            inbuf_overflow=max_body + 1,  # prompts and answers never touch a temporary file
            outbuf_overflow=1 << 30,
            log_socket_errors=False,  # clients come and go
        )
        self._listeners = [item for item in self._map.values() if isinstance(item, BaseWSGIServer)]
        for listener in self._listeners:
            listener.handle_accept = functools.partial(_accept_many, listener)
            listener.channel_class = channel_class(
                envelope_of,
                too_large(max_body),
                most=room,
                screen=door.refusal if door else None,
                finish=app.finish if isinstance(app, Observer) else RequestRecord.emit,
            )

    @property
    def port(self) -> int:
        """The first socket's port."""
        return int(self._listeners[0].effective_port)

    def resize(self, threads: int) -> None:
        """Another number of threads; those that are too many end after their request."""
        self._listeners[0].task_dispatcher.set_thread_count(threads)

    def run(self) -> None:
        """Serve until `close`; returns when threads are done and sockets closed."""
        try:
            while not self._closing.is_set():
                self._turn(_LOOP_SECONDS)
            self._wind_down()
        finally:
            # Nobody may write to a trigger that is closed: its number may be another file's by then.
            with self._wake:
                self._is_awake = False
            wasyncore.close_all(self._map, ignore_all=True)
            self._closed.set()

    def close(self) -> None:
        """Make `run` return; from any thread, or from a signal handler."""
        self._closing.set()
        with self._wake:
            if self._is_awake:
                self._listeners[0].pull_trigger()

    def _turn(self, timeout: float) -> None:
        wasyncore.loop(timeout=timeout, use_poll=True, map=self._map, count=1)

    def _wind_down(self) -> None:
        """Take no more connections; finish what is being written."""
        for listener in self._listeners:
            listener.accepting = False
        dispatcher = self._listeners[0].task_dispatcher
        dispatcher.set_thread_count(0)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while time.monotonic() < deadline and (
            dispatcher.threads or any(channel.total_outbufs_len for channel in connections(self._map))
        ):
            self._turn(0.05)
