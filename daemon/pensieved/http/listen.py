"""The listening socket, bound before anything slow starts."""

from __future__ import annotations

import errno
import socket
from typing import Any

import psutil

from pensieved.errors import PensievedError, PermanentError, PortTakenError, UsageError

BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket on `host` and `port`; 0 lets the system choose.

    Raises:
        PortTakenError: another process listens there; names it where that can be known.
        UsageError: `host` is no address of this machine.
        PermanentError: this user may not listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"server.host {host!r} is not an address: {error.strerror or error}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _explain(error, host, port) from error
    return listener


def _explain(error: OSError, host: str, port: int) -> PensievedError:
    if error.errno == errno.EADDRINUSE:
        holder = _holder(port)
        return PortTakenError(
            f"Port {port} is taken{f' by {holder}' if holder else ''}.",
            hint="Choose another with --port, or stop that process.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermanentError(f"This user may not listen on port {port}.", hint="Choose one above 1023.")
    return UsageError(f"Cannot listen on {host}:{port}: {error.strerror}.")


def _holder(port: int) -> str | None:
    """The process that listens on `port`: name and pid; None where the system does not tell this user."""
    try:
        pids = {found.pid for found in psutil.net_connections("tcp") if _listens(found, port)}
    except psutil.AccessDenied:  # macOS tells only root about everybody at once
        pids = {process.pid for process in psutil.process_iter() if _owns(process, port)}
    for pid in sorted(pid for pid in pids if pid is not None):
        try:
            return f"{psutil.Process(pid).name()} (pid {pid})"
        except psutil.Error:
            continue
    return None


def _owns(process: psutil.Process, port: int) -> bool:
    try:
        return any(_listens(found, port) for found in process.net_connections("tcp"))
    except psutil.Error:
        return False


def _listens(connection: Any, port: int) -> bool:
    return bool(
        connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
    )
