"""launchctl's verbs: arguments in, text and exit code out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launchd_standin import printing
from launchd_standin.jobs import RefusedError, read_plist
from launchd_standin.store import Store

_TEXTS = {
    3: "No such process",
    5: "Input/output error",
    36: "Operation now in progress",
    37: "Operation already in progress",
    112: "Could not find specified domain",
    113: "Could not find specified service",
    119: "Service is disabled",
    122: "Path had bad ownership/permissions",
    125: "Domain does not support specified action",
    134: "Service cannot load in requested session",
}
_QUICK_END = 0.2  # seconds after which bootout no longer waits and says 36
_STARTUP = 20.0
_SESSION = {"gui": "Aqua", "user": "Background"}


class Fail(Exception):  # noqa: N818  it is launchctl's exit, not an error of ours
    """Ends the command with a code and a line on stderr."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def main(arguments: list[str]) -> int:
    """Run one launchctl command."""
    verb, *rest = arguments or ["help"]
    handler = _VERBS.get(verb)
    if handler is None:
        sys.stderr.write(
            f"Unrecognized subcommand: {verb}\nUsage: launchctl <subcommand> ... | help [subcommand]\n"
        )
        return 64
    try:
        sys.stdout.write(handler(Store(), rest) or "")
    except Fail as fail:
        sys.stderr.write(f"{fail.text}\n")
        return fail.code
    except (ValueError, IndexError):
        sys.stderr.write(f"Usage: launchctl {verb} ...\n")
        return 64
    return 0


def _bootstrap(store: Store, rest: list[str]) -> None:
    domain, path = rest
    _domain(store, domain, "Bootstrap failed: {code}: {text}")
    with store.locked():
        try:
            plist = read_plist(path)
            _admit(store, domain, plist)
        except RefusedError as refused:
            raise _failed("Bootstrap", refused.code) from None
        _load(store, {"domain": domain, "path": path, "plist": plist, "home": os.environ.get("HOME", "/")})


def _admit(store: Store, domain: str, plist: dict[str, Any]) -> None:
    label, kind = plist["Label"], domain.split("/", maxsplit=1)[0]
    sessions = plist.get("LimitLoadToSessionType", "Aqua")
    if _SESSION[kind] not in (sessions if isinstance(sessions, list) else [sessions]):
        raise RefusedError(134)
    if store.overrides.get(label, plist.get("Disabled", False)):
        raise RefusedError(store.config.disabled_code)
    if label in store.switched_off:
        raise RefusedError(119)
    if store.job(label).exists() or store.draining(label):
        raise RefusedError(5)


def _load(store: Store, spec: dict[str, Any]) -> None:
    folder = store.job(spec["plist"]["Label"])
    folder.mkdir(parents=True)
    (folder / "job.new").write_text(json.dumps(spec))
    (folder / "job.new").rename(folder / "job.json")  # a `print` at this moment reads all of it or none
    with (store.folder / "supervisor.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-IS", str(Path(__file__).parent / "supervisor.py"), str(store.folder), folder.name],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + _STARTUP
    while not (folder / "control").exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise Fail(5, "the stand-in's supervisor did not start; see supervisor.log")
        time.sleep(0.005)


def _bootout(store: Store, rest: list[str]) -> None:
    target = rest[0] if len(rest) == 1 else f"{rest[0]}/{read_plist(rest[1])['Label']}"
    label = _label(store, target, "Boot-out failed: {code}: {text}", missing=3)
    code = _ask(store, label, {"do": "bootout"}, missing=(3, "Boot-out failed: 3: No such process"))["code"]
    deadline = time.monotonic() + _QUICK_END
    while store.job(label).exists():
        if code or time.monotonic() > deadline:
            raise _failed("Boot-out", 36)
        time.sleep(0.01)


def _kickstart(store: Store, rest: list[str]) -> str:
    flags, target = [part for part in rest if part.startswith("-")], rest[-1]
    label = _label(store, target)
    state = _ask(store, label, {"do": "kickstart", "kill": "-k" in flags})
    if state["code"]:
        raise Fail(
            state["code"], f'Could not kickstart service "{label}": {state["code"]}: {_TEXTS[state["code"]]}'
        )
    return f"{state['pid']}\n" if "-p" in flags else ""


def _print(store: Store, rest: list[str]) -> str:
    (target,) = rest
    if target.count("/") == 1:
        _domain(store, target)
        return printing.domain(target, store)
    label = _label(store, target)
    spec = _spec(store, label)
    if not spec or target != f"{spec['domain']}/{label}":
        raise _unknown(label, target)
    return printing.service(spec, _ask(store, label, {"do": "print"}))


def _list(store: Store, rest: list[str]) -> str:
    if not rest:
        return printing.listing([(label, _ask(store, label, {"do": "print"})) for label in store.loaded()])
    spec = _spec(store, rest[0])
    if not spec:
        raise Fail(113, f'Could not find service "{rest[0]}" in domain for port')
    return printing.details(spec, _ask(store, rest[0], {"do": "print"}))


def _print_disabled(store: Store, rest: list[str]) -> str:
    _domain(store, rest[0])
    return printing.disabled(store.overrides)


def _override(*, disabled: bool):
    def verb(store: Store, rest: list[str]) -> None:
        domain, _, label = rest[0].rpartition("/")
        _domain(store, domain)
        with store.locked():
            store.override(label, disabled=disabled)

    return verb


def _kill(store: Store, rest: list[str]) -> None:
    name, target = rest
    number = int(name) if name.isdecimal() else signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    _ask(store, _label(store, target), {"do": "kill", "signal": int(number)})


def _legacy(action: str):
    def verb(store: Store, rest: list[str]) -> None:
        if not store.job(rest[0]).exists():
            raise Fail(3, "")
        _ask(store, rest[0], {"do": action})

    return verb


def _domain(store: Store, name: str, text: str = "Bad request.\nCould not find domain for {name}") -> None:
    kind, _, uid = name.partition("/")
    if kind not in _SESSION or not uid.isdecimal():
        raise Fail(64, f"Unrecognized target specifier: {name}")
    code = 0
    if int(uid) != os.getuid():
        code = 112
    elif kind == "gui" and not store.config.graphical:
        code = store.config.no_session_code
    if code:
        raise Fail(code, text.format(code=code, text=_TEXTS[code], name=name))


def _label(
    store: Store,
    target: str,
    text: str = "Bad request.\nCould not find domain for {name}",
    missing: int = 113,
) -> str:
    domain, _, label = target.rpartition("/")
    _domain(store, domain, text)
    if _spec(store, label).get("domain") != domain:
        raise (
            _unknown(label, target)
            if missing == 113
            else Fail(missing, text.format(code=missing, text=_TEXTS[missing]))
        )
    return label


def _spec(store: Store, label: str) -> dict[str, Any]:
    try:
        return json.loads((store.job(label) / "job.json").read_text())
    except FileNotFoundError:  # gone this moment
        return {}


def _ask(
    store: Store, label: str, request: dict[str, Any], missing: tuple[int, str] | None = None
) -> dict[str, Any]:
    """Send to the job's supervisor; one that just ended counts as not loaded."""
    here = Path.cwd()
    try:
        os.chdir(store.job(label))  # a socket's path may have 104 bytes only
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect("control")
            with control.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                return json.loads(stream.readline())
    except (OSError, ValueError):
        raise (
            Fail(*missing) if missing else _unknown(label, f"{_kind(store)}/{os.getuid()}/{label}")
        ) from None
    finally:
        os.chdir(here)


def _kind(store: Store) -> str:
    return "gui" if store.config.graphical else "user"


def _unknown(label: str, target: str) -> Fail:
    kind, uid, _ = target.split("/", 2)
    return Fail(113, f'Bad request.\nCould not find service "{label}" in domain for user {kind}: {uid}')


def _failed(what: str, code: int) -> Fail:
    hint = "\nTry re-running the command as root for richer errors." if code == 5 else ""
    return Fail(code, f"{what} failed: {code}: {_TEXTS.get(code, 'Unknown error')}{hint}")


_VERBS = {
    "bootstrap": _bootstrap,
    "bootout": _bootout,
    "kickstart": _kickstart,
    "print": _print,
    "print-disabled": _print_disabled,
    "list": _list,
    "enable": _override(disabled=False),
    "disable": _override(disabled=True),
    "kill": _kill,
    "start": _legacy("start"),
    "stop": _legacy("stop"),
    "managername": lambda store, _: f"{'Aqua' if store.config.graphical else 'Background'}\n",
}
