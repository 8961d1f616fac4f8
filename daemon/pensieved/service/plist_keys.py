"""Every key of launchd.plist(5), and what may be its value.

launchd ignores what it does not know: a key in the wrong case or of the wrong type is a silent loss, which is
why `pensieved.service.lint` compares with this table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Check = Callable[[str, Any], Iterator[str]]
    """Yields what is wrong with the value at the key path."""


def text(key: str, value: Any) -> Iterator[str]:
    """A string."""
    if not isinstance(value, str):
        yield f"{key} must be a string, not {_kind(value)}"


def boolean(key: str, value: Any) -> Iterator[str]:
    """A boolean."""
    if not isinstance(value, bool):
        yield f"{key} must be a boolean, not {_kind(value)}"


def integer(key: str, value: Any) -> Iterator[str]:
    """An integer that is not negative; Nice alone may be."""
    if not isinstance(value, int) or isinstance(value, bool):
        yield f"{key} must be an integer, not {_kind(value)}"
    elif value < 0 and key != "Nice":
        yield f"{key} must not be negative"


def word(*words: str) -> Check:
    """One of these strings."""

    def check(key: str, value: Any) -> Iterator[str]:
        if value not in words:
            yield f"{key} must be one of {', '.join(words)}, not {value!r}"

    return check


def array(item: Check) -> Check:
    """An array that is not empty."""

    def check(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, list) or not value:
            yield f"{key} must be an array that is not empty"
            return
        for number, found in enumerate(value):
            yield from item(f"{key}[{number}]", found)

    return check


def mapping(item: Check) -> Check:
    """A dictionary with any keys."""

    def check(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{key} must be a dictionary, not {_kind(value)}"
            return
        for name, found in value.items():
            yield from item(f"{key}.{name}", found)

    return check


def table(known: Mapping[str, Check]) -> Check:
    """A dictionary with these keys, each of which may be left out."""

    def check(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{key} must be a dictionary, not {_kind(value)}"
            return
        for name, found in value.items():
            if name in known:
                yield from known[name](f"{key}.{name}", found)
            else:
                yield f"{key}.{name} is no key of launchd's; {key} knows {', '.join(known)}"

    return check


def either(*checks: Check) -> Check:
    """Right for at least one of them; told is what the last one says."""

    def check(key: str, value: Any) -> Iterator[str]:
        found: list[str] = []
        for one in checks:
            found = list(one(key, value))
            if not found:
                return
        yield from found

    return check


def anything(_key: str, _value: Any) -> Iterator[str]:
    """Whatever it is, launchd hands it on."""
    yield from ()


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", str: "a string", list: "an array", dict: "a dictionary"}
    return names.get(type(value), type(value).__name__)


_LIMITS = table(
    dict.fromkeys(
        (
            "Core", "CPU", "Data", "FileSize", "MemoryLock",
            "NumberOfFiles", "NumberOfProcesses", "ResidentSetSize", "Stack",
        ),
        integer,
    )
)  # fmt: skip
_CALENDAR = table(dict.fromkeys(("Minute", "Hour", "Day", "Weekday", "Month"), integer))
_SOCKET = table(
    {
        "SockType": word("stream", "dgram", "seqpacket"),
        "SockPassive": boolean,
        "SockNodeName": text,
        "SockServiceName": either(integer, text),
        "SockFamily": word("IPv4", "IPv6", "IPv4v6", "Unix"),
        "SockProtocol": word("TCP", "UDP"),
        "SockPathName": text,
        "SockPathOwner": integer,
        "SockPathGroup": integer,
        "SockPathMode": integer,
        "SecureSocketWithKey": text,
        "ReceivePacketInfo": boolean,
        "Bonjour": either(boolean, text, array(text)),
        "MulticastGroup": text,
    }
)

KEYS: dict[str, Check] = {
    **dict.fromkeys(
        (
            "Label", "Program", "BundleProgram", "UserName", "GroupName", "RootDirectory", "WorkingDirectory",
            "StandardInPath", "StandardOutPath", "StandardErrorPath",
        ),
        text,
    ),
    **dict.fromkeys(("ProgramArguments", "WatchPaths", "QueueDirectories"), array(text)),
    **dict.fromkeys(
        (
            "Disabled", "RunAtLoad", "EnableTransactions", "EnablePressuredExit", "InitGroups", "StartOnMount",
            "Debug", "WaitForDebugger", "AbandonProcessGroup", "LowPriorityIO", "LowPriorityBackgroundIO",
            "MaterializeDatalessFiles", "LaunchOnlyOnce", "SessionCreate", "LegacyTimers",
        ),
        boolean,
    ),
    **dict.fromkeys(("ExitTimeOut", "ThrottleInterval", "StartInterval", "Nice"), integer),
    **dict.fromkeys(("LimitLoadToSessionType", "AssociatedBundleIdentifiers"), either(array(text), text)),
    **dict.fromkeys(("SoftResourceLimits", "HardResourceLimits"), _LIMITS),
    **dict.fromkeys(("LimitLoadToHardware", "LimitLoadFromHardware"), mapping(array(text))),
    "ProcessType": word("Background", "Standard", "Adaptive", "Interactive"),
    "Umask": either(text, integer),
    "EnvironmentVariables": mapping(text),
    "LaunchEvents": mapping(mapping(anything)),
    "inetdCompatibility": table({"Wait": boolean}),
    "MachServices": mapping(either(boolean, mapping(anything))),
    "KeepAlive": either(
        boolean,
        table(
            {
                "SuccessfulExit": boolean,
                "Crashed": boolean,
                "PathState": mapping(boolean),
                "OtherJobEnabled": mapping(boolean),
            }
        ),
    ),
    "StartCalendarInterval": either(array(_CALENDAR), _CALENDAR),
    "Sockets": mapping(either(array(_SOCKET), _SOCKET)),
}  # fmt: skip

DEAD = {
    "OnDemand": "KeepAlive",
    "TimeOut": "ExitTimeOut",
    "ServiceIPC": "nothing",
    "HopefullyExitsFirst": "nothing",
    "HopefullyExitsLast": "nothing",
    "IgnoreProcessGroupAtShutdown": "AbandonProcessGroup",
    "LimitLoadToHosts": "nothing",
    "LimitLoadFromHosts": "nothing",
}
"""Keys that launchd once read, and what took their place."""

PATHS = (
    "Program", "RootDirectory", "WorkingDirectory", "StandardInPath", "StandardOutPath", "StandardErrorPath",
    "WatchPaths", "QueueDirectories",
)  # fmt: skip
"""Keys whose values are paths."""
