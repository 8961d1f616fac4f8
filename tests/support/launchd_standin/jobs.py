"""A property list as launchd takes it in, and the process it describes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import plistlib
import pwd
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

DEFAULT_EXIT_TIMEOUT = 5
DEFAULT_THROTTLE = 10
_SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
_PR_SET_PDEATHSIG = 1
_LIMITS = {
    "Core": resource.RLIMIT_CORE,
    "CPU": resource.RLIMIT_CPU,
    "Data": resource.RLIMIT_DATA,
    "FileSize": resource.RLIMIT_FSIZE,
    "NumberOfFiles": resource.RLIMIT_NOFILE,
    "Stack": resource.RLIMIT_STACK,
}


class RefusedError(Exception):
    """launchd does not take the property list; carries the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def read_plist(path: str) -> dict[str, Any]:
    """The property list, or the code with which bootstrap refuses it."""
    try:
        found = Path(path).stat()
        content = Path(path).read_bytes()
    except OSError:
        raise RefusedError(5) from None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(122)
    try:
        plist = plistlib.loads(content)
    except (ValueError, ExpatError, plistlib.InvalidFileException):
        raise RefusedError(109) from None
    if not isinstance(plist, dict):
        raise RefusedError(109)
    if not isinstance(plist.get("Label"), str) or not plist["Label"]:
        raise RefusedError(110)
    if not program(plist):
        raise RefusedError(111)
    return plist


def program(plist: dict[str, Any]) -> list[str]:
    """The command; empty where the property list has none that launchd would take."""
    arguments = plist.get("ProgramArguments") or ([plist["Program"]] if "Program" in plist else [])
    executable = plist.get("Program") or (arguments[0] if arguments else "")
    fit = isinstance(arguments, list) and all(isinstance(part, str) for part in arguments)
    return [executable, *arguments[1:]] if fit and str(executable).startswith("/") else []


def bare_environment(label: str, home: str) -> dict[str, str]:
    """What launchd gives to every agent."""
    user = pwd.getpwuid(os.getuid())
    return {
        "PATH": _SYSTEM_PATH,
        "HOME": home,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell,
        "TMPDIR": tempfile.gettempdir(),
        "XPC_FLAGS": "0x0",
        "XPC_SERVICE_NAME": label,
    }


def spawn(
    plist: dict[str, Any], home: str, sockets: dict[str, list[socket.socket]], activation: str
) -> subprocess.Popen[bytes]:
    """Start the job's program as launchd would. Raises OSError, which launchd reports as exit 78 (EX_CONFIG).

    `activation` is the library that answers launch_activate_socket in its place.
    """
    held = [each.fileno() for group in sockets.values() for each in group]
    passed = ";".join(
        f"{name}:{','.join(str(each.fileno()) for each in group)}" for name, group in sockets.items()
    )
    given = {"STANDIN_SOCKETS": passed, "LD_PRELOAD": activation} if sockets else {}
    with contextlib.ExitStack() as files:
        streams = [
            files.enter_context(Path(plist.get(key, "/dev/null")).open(mode))
            for key, mode in (
                ("StandardInPath", "rb"),
                ("StandardOutPath", "ab"),
                ("StandardErrorPath", "ab"),
            )
        ]
        return subprocess.Popen(
            program(plist),
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=plist.get("WorkingDirectory", "/"),
            env={**bare_environment(plist["Label"], home), **given, **plist.get("EnvironmentVariables", {})},
            pass_fds=held,
            start_new_session=True,
            preexec_fn=lambda: _become(plist.get("SoftResourceLimits", {})),  # noqa: PLW1509  it has one thread
        )


def _become(limits: dict[str, int]) -> None:
    """Between fork and exec: soft limits, and death with the supervisor where the system has it."""
    for name, wanted in limits.items():
        _, hard = resource.getrlimit(_LIMITS[name])
        resource.setrlimit(
            _LIMITS[name], (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def bind_sockets(plist: dict[str, Any]) -> dict[str, list[socket.socket]]:
    """The sockets that launchd holds for the job, by the names of the plist. Raises OSError."""
    return {name: [_bound(spec)] for name, spec in plist.get("Sockets", {}).items()}


def _bound(spec: dict[str, Any]) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((spec.get("SockNodeName", "127.0.0.1"), int(spec["SockServiceName"])))
    listener.listen()
    return listener


def kept_alive(plist: dict[str, Any], status: int) -> bool:
    """Whether launchd starts it again after it ended with this return code (negative: a signal)."""
    keep = plist.get("KeepAlive", False)
    if not isinstance(keep, dict):
        return bool(keep)
    wanted = []
    if "SuccessfulExit" in keep:
        wanted.append((status == 0) == keep["SuccessfulExit"])
    if "Crashed" in keep:
        wanted.append((status < 0) == keep["Crashed"])
    return any(wanted)


def runs_at_load(plist: dict[str, Any]) -> bool:
    """KeepAlive implies it, in any form that looks at exits."""
    return bool(plist.get("RunAtLoad") or plist.get("KeepAlive"))
