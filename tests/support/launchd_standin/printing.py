"""launchctl's texts in their real shape."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

from launchd_standin.jobs import DEFAULT_EXIT_TIMEOUT, DEFAULT_THROTTLE, program

if TYPE_CHECKING:
    from launchd_standin.store import Store

_EXIT_NAMES = {1: "Operation not permitted", 2: "No such file or directory", 78: "EX_CONFIG"}
_TYPE = {"Interactive": "interactive (4)", "Background": "background (2)", "Adaptive": "adaptive (6)"}


def domain(name: str, store: Store) -> str:
    kind = "login" if name.startswith("gui/") else "user"
    services = "".join(f"\t\t       0      - \t{label}\n" for label in store.loaded())
    return (
        f"{name} = {{\n\ttype = {kind}\n\thandle = 100005\n\tactive count = 1\n\tservice count = {len(store.loaded())}\n"
        f"\tcreator = loginwindow[1]\n\tsession = {'Aqua' if kind == 'login' else 'Background'}\n"
        f"\n\tservices = {{\n{services}\t}}\n}}\n"
    )


def service(spec: dict[str, Any], state: dict[str, Any]) -> str:
    """`launchctl print DOMAIN/LABEL`: nested blocks repeat names of the outer level, such as `state`."""
    plist, label, running = spec["plist"], spec["plist"]["Label"], state["pid"] is not None
    lines = [
        f"{spec['domain']}/{label} = {{",
        f"\tactive count = {int(running)}",
        f"\tpath = {spec['path']}",
        "\ttype = LaunchAgent",
        f"\tstate = {state['state']}",
        "",
        f"\tprogram = {program(plist)[0]}",
        *_block("arguments", program(plist)),
        f"\tworking directory = {plist.get('WorkingDirectory', '/')}",
        "",
        *(f"\t{name} path = {plist[key]}" for name, key in _PATHS if key in plist),
        *_block("inherited environment", ["SSH_AUTH_SOCK => /private/tmp/com.apple.launchd.x/Listeners"]),
        *_block("default environment", ["PATH => /usr/bin:/bin:/usr/sbin:/sbin"]),
        *_block("environment", [f"{k} => {v}" for k, v in _environment(plist)]),
        f"\tdomain = {spec['domain']} [100005]",
        "\tasid = 100005",
        f"\tminimum runtime = {plist.get('ThrottleInterval', DEFAULT_THROTTLE)}",
        f"\texit timeout = {plist.get('ExitTimeOut', DEFAULT_EXIT_TIMEOUT)}",
        f"\truns = {state['runs']}",
        *([f"\tpid = {state['pid']}"] if running else []),
        "\timmediate reason = speculative",
        "\tforks = 0",
        "\texecs = 1",
        *_last_exit(state["last_exit"]),
        "",
        *_block("resource coalition", ["ID = 1234", "type = resource", "state = active", f"name = {label}"]),
        *_block("jetsam coalition", ["ID = 1235", "type = jetsam", "state = active", "pid = 1"]),
        f"\tspawn type = {_TYPE.get(plist.get('ProcessType', ''), 'daemon (3)')}",
        "\tjetsam priority = 40",
        "\tproperties = keepalive | runatload | inferred program",
        "}",
    ]
    return "\n".join(lines) + "\n"


def listing(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """`launchctl list`: the status is the exit code, or a signal as a negative number."""
    lines = [f"{state['pid'] or '-'}\t{state['last_exit'] or 0}\t{label}" for label, state in rows]
    return "\n".join(["PID\tStatus\tLabel", *lines]) + "\n"


def details(spec: dict[str, Any], state: dict[str, Any]) -> str:
    """`launchctl list LABEL`: LastExitStatus is the raw wait status."""
    plist, last = spec["plist"], state["last_exit"] or 0
    paths = {key: plist[key] for _, key in _PATHS if key in plist}
    quoted = [
        f'\t"{key}" = {json.dumps(value)};' for key, value in (paths | {"Label": plist["Label"]}).items()
    ]
    pid = [f'\t"PID" = {state["pid"]};'] if state["pid"] else []
    status = f'\t"LastExitStatus" = {-last if last < 0 else last << 8};'
    arguments = [f"\t\t{json.dumps(part)};" for part in program(plist)]
    return (
        "\n".join(
            [
                "{",
                *quoted,
                '\t"OnDemand" = false;',
                status,
                *pid,
                '\t"ProgramArguments" = (',
                *arguments,
                "\t);",
                "};",
            ]
        )
        + "\n"
    )


def disabled(overrides: dict[str, bool]) -> str:
    """`launchctl print-disabled`: a second block follows, with words that look alike."""
    rows = [f'\t\t"{label}" => {"disabled" if off else "enabled"}\n' for label, off in overrides.items()]
    return f'\n\tdisabled services = {{\n{"".join(rows)}\t}}\n\n\tlogin item associations = {{\n\t\t"org.example.helper" => disabled\n\t}}\n'


_PATHS = (("stdin", "StandardInPath"), ("stdout", "StandardOutPath"), ("stderr", "StandardErrorPath"))


def _block(name: str, lines: list[str]) -> list[str]:
    return [f"\t{name} = {{", *(f"\t\t{line}" for line in lines), "\t}", ""]


def _environment(plist: dict[str, Any]) -> list[tuple[str, str]]:
    return [*plist.get("EnvironmentVariables", {}).items(), ("XPC_SERVICE_NAME", plist["Label"])]


def _last_exit(status: int | None) -> list[str]:
    if status is None:
        return ["\tlast exit code = (never exited)"]
    if status < 0:
        return [f"\tlast terminating signal = {signal.strsignal(-status)}: {-status}"]
    name = f": {_EXIT_NAMES.get(status, os.strerror(status))}" if status else ""
    return [f"\tlast exit code = {status}{name}"]
