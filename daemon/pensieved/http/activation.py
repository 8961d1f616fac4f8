"""Sockets that somebody else holds: launchd's, or those of systemd's LISTEN_FDS.

Whoever starts the daemon on demand has bound the port long before, and keeps it when the daemon ends: a connection that
comes while there is no daemon waits in the queue and starts it. The daemon takes the sockets over instead of binding.

Sources: launch_activate_socket(3); sd_listen_fds(3): descriptors from 3 on, LISTEN_FDS of them, meant for LISTEN_PID.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

from pensieved.errors import PermanentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SOCKET_NAME = "http"
"""The entry of Sockets in the agent's plist."""

_FIRST = 3
_COUNT, _PID = "LISTEN_FDS", "LISTEN_PID"
_NOT_OURS = frozenset({errno.ESRCH, errno.ENOENT})  # not launchd's job; no such entry in its plist


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets that this process was started with; taken once, and then not passed on to children.

    Raises:
        UsageError: what was passed is no TCP socket.
        PermanentError: launchd has them and does not give them.
    """
    descriptors = _from_environment() or _from_launchd()
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for each in sockets:
        each.set_inheritable(False)
        if each.family not in {socket.AF_INET, socket.AF_INET6} or each.type != socket.SOCK_STREAM:
            raise UsageError("A socket that this daemon was started with is no TCP socket.")
    return sockets


def copies(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """The same sockets once more, for a server that closes what it is given."""
    return [each.dup() for each in sockets]


def pass_on(sockets: Sequence[socket.socket]) -> None:
    """Prepare them for the program that takes this process over by `exec`, which then finds them as LISTEN_FDS."""
    above = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST + len(sockets)) for each in sockets]
    for place, descriptor in enumerate(above):
        os.dup2(descriptor, _FIRST + place, inheritable=True)
    if sockets:
        os.environ[_COUNT], os.environ[_PID] = str(len(sockets)), str(os.getpid())


def _from_environment() -> list[int]:
    count, pid = os.environ.pop(_COUNT, ""), os.environ.pop(_PID, "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    return list(range(_FIRST, _FIRST + int(count)))


def _from_launchd() -> list[int]:
    """What launchd holds for this job; nothing where there is no launchd."""
    library = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        activate = library.launch_activate_socket
        found, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
        code = activate(SOCKET_NAME.encode(), ctypes.byref(found), ctypes.byref(count))
        if code in _NOT_OURS:
            return []
        if code:
            raise PermanentError(
                f"launchd does not give its sockets: {os.strerror(code)}.", hint="Run: pensieved restart"
            )
        descriptors = found[: count.value]
        library.free(found)
        return descriptors
    return []
