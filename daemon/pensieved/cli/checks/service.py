"""The agent in launchd's hands, and the daemon on its port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pensieved.cli.agents import environment_of
from pensieved.cli.checks.finding import Finding, Level
from pensieved.cli.declare import declare
from pensieved.errors import ConfigError, PensievedError, PortTakenError, ServiceError
from pensieved.http.listen import bind
from pensieved.service import fingerprint
from pensieved.service.agent import installed_plist
from pensieved.service.domain import find_domain
from pensieved.service.lint import problems
from pensieved.settings.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.cli.ask import Answer
    from pensieved.cli.checks.scene import Scene

_LEVELS = {"ready": Level.OK, "failed": Level.PROBLEM, "degraded": Level.WARNING}


def agent(scene: Scene) -> Iterator[Finding]:
    """Installed, loaded, switched off; and whether launchd has what lies on disk."""
    if not scene.launchctl.exists:
        yield Finding(
            "agent",
            Level.NOTE,
            "Not applicable: this system has no launchd.",
            todo="Let your service manager call `pensieved run --config FILE`.",
        )
    elif scene.job_error is not None:
        yield Finding("agent", Level.PROBLEM, scene.job_error.what, todo=scene.job_error.hint)
    elif not scene.installed:
        yield _uninstalled(scene)
    elif (plist := installed_plist(scene.agent)) is None:
        what = f"{scene.agent.plist} is no property list."
        yield Finding(
            "agent", Level.PROBLEM, what, todo=f"`pensieved install{scene.agent.option}` writes it anew."
        )
    else:
        yield from _plist(scene, plist)
        yield _state(scene)


def daemon(scene: Scene) -> Iterator[Finding]:
    """What is on the port: our daemon, nobody, or somebody else."""
    server = scene.settings.server
    if scene.answer is not None:
        yield _answering(scene, scene.answer)
    elif server.port == 0:
        yield Finding("daemon", Level.NOTE, "server.port is 0: the system chooses one at each start.")
    elif scene.job is not None and scene.job.pid is None and _held_by_launchd(scene):
        yield Finding(
            "daemon", Level.OK, f"launchd holds port {server.port}; the first request starts the daemon."
        )
    else:
        yield _port(scene)


def _uninstalled(scene: Scene) -> Finding:
    if scene.job is not None:
        return Finding(
            "agent",
            Level.WARNING,
            f"{scene.agent.label} is loaded, but its plist is gone.",
            "It is not there after the next login.",
            f"`pensieved install{scene.agent.option}` writes it anew.",
        )
    return Finding(
        "agent",
        Level.NOTE,
        f"No agent {scene.agent.label} is installed.",
        todo="`pensieved install` does it.",
    )


def _plist(scene: Scene, plist: dict[str, Any]) -> Iterator[Finding]:
    """What is wrong with the file, and what launchd has not seen of it yet."""
    path, again = scene.agent.plist, f"`pensieved install{scene.agent.option}` writes it anew."
    if found := problems(plist):
        yield Finding(
            "agent", Level.PROBLEM, f"{path}: {'; '.join(found)}.", "launchd ignores or refuses that.", again
        )
    interpreter = Path(str((plist.get("ProgramArguments") or [""])[0]))
    if not interpreter.exists():
        yield Finding(
            "agent",
            Level.PROBLEM,
            f"{interpreter}, which the agent runs, is not there.",
            "An upgrade may have moved it.",
            again,
        )
    elif keys := _differing(scene):
        yield Finding(
            "agent",
            Level.NOTE,
            f"{path} differs from what this pensieved would write: {', '.join(keys)}.",
            todo=again,
        )
    if scene.job is not None and not fingerprint.is_loaded(scene.agent, path.read_bytes()):
        yield Finding(
            "agent",
            Level.WARNING,
            "launchd runs what it loaded earlier: the plist, the interpreter or pensieved has changed since.",
            todo=f"`pensieved restart{scene.agent.option}` loads it.",
        )


def _differing(scene: Scene) -> list[str]:
    """Keys in which the plist is not what `install` would write, variables aside: each shell has its own."""
    try:
        with environment_of(scene.environment):
            headless = find_domain(scene.launchctl).headless
            keys = declare(scene.agent, {}, headless=headless).plist_keys
    except (ConfigError, ServiceError, PensievedError):
        return []  # the configuration's own check says why
    return [key for key in keys if not key.startswith("EnvironmentVariables")]


def _state(scene: Scene) -> Finding:
    label, job, option = scene.agent.label, scene.job, scene.agent.option
    if job is None and _is_disabled(scene):
        return Finding(
            "agent",
            Level.PROBLEM,
            f"{label} is switched off.",
            "launchd does not start it, at login or otherwise.",
            "Allow it in System Settings > General > Login Items & Extensions, or `pensieved start"
            f"{option}`.",
        )
    if job is None:
        what = f"{label} is installed and not loaded."
        return Finding(
            "agent",
            Level.WARNING,
            what,
            "It was stopped; the next login loads it.",
            f"`pensieved start{option}`",
        )
    if job.pid is None and not _held_by_launchd(scene):
        what = f"{label} is loaded and not running{f' (last end: {job.last_exit})' if job.last_exit else ''}."
        return Finding(
            "agent",
            Level.WARNING,
            what,
            todo=f"`pensieved logs{option}` says why; `pensieved start{option}`.",
        )
    words = f"pid {job.pid}" if job.pid else "waiting for a request"
    return Finding(
        "agent", Level.OK, f"{label} is loaded in {job.domain}: {words}, started {job.runs or 0} times."
    )


def _is_disabled(scene: Scene) -> bool:
    try:
        return scene.launchctl.is_disabled(find_domain(scene.launchctl).name, scene.agent.label)
    except ServiceError:
        return False


def _held_by_launchd(scene: Scene) -> bool:
    return "Sockets" in (installed_plist(scene.agent) or {})


def _answering(scene: Scene, answer: Answer) -> Finding:
    report = answer.report
    words = f"pensieved {report.version} answers on {scene.address.url}: {report.phase}, up {format_duration(report.uptime)}."
    level = _LEVELS.get(report.phase, Level.OK if answer.ready else Level.NOTE)
    return Finding("daemon", level, words, report.error or "", report.hint or "")


def _port(scene: Scene) -> Finding:
    server = scene.settings.server
    try:
        bind(server.host, server.port).close()
    except PortTakenError as error:
        if scene.job is not None and scene.job.pid is not None and f"(pid {scene.job.pid})" in error.what:
            return Finding(
                "daemon",
                Level.WARNING,
                f"The agent's daemon (pid {scene.job.pid}) listens on port {server.port} and does not answer this command.",
                todo="Is the key that is configured the one it was started with? `pensieved logs` says what it does.",
            )
        return Finding("daemon", Level.PROBLEM, error.what, "A daemon cannot listen there.", error.hint)
    except PensievedError as error:
        return Finding("daemon", Level.PROBLEM, error.what, "A daemon cannot listen there.", error.hint)
    running = scene.job is not None and scene.job.pid is not None
    return Finding(
        "daemon",
        Level.WARNING if running else Level.OK,
        f"No daemon answers on {scene.address.url}; the port is free.",
        "The agent's daemon runs, and listens elsewhere or not yet." if running else "",
        f"`pensieved restart{scene.agent.option}`" if running else "",
    )
