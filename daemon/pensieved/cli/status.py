"""`pensieved status`: the agent as launchd sees it, and the daemon as it sees itself, in words."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pensieved.cli.agents import DEFAULT, Label
from pensieved.cli.standing import Standing, look
from pensieved.settings.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.cli.ask import DaemonReport, GuardReport
    from pensieved.control.status import Upcoming
    from pensieved.models.progress import Progress

_EVERY = 1.0
_NOT_READY = 3


def status(
    label: Label = DEFAULT,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what the agent and its daemon are doing; exit 3 when no request would be answered."""
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(label, as_json=as_json)
        return
    standing = look(label)
    typer.echo(to_json(standing, indent=2) if as_json else "\n".join(describe(standing)))
    if not standing.ready:
        raise typer.Exit(_NOT_READY)


def describe(standing: Standing) -> Iterator[str]:
    """The lines of `pensieved status`."""
    yield f"agent     {standing.agent_words()}"
    for problem in standing.problems:
        yield f"problem   {problem}"
    answer = standing.answer
    if standing.awaits_request:
        yield f"daemon    starts with the first request on {standing.url}"
        return
    if answer is None:
        yield f"daemon    does not answer{f' on {standing.url}' if standing.url else ''}"
        return
    report = answer.report
    yield f"daemon    {report.version} on {standing.url}, up {format_duration(report.uptime)}"
    yield f"phase     {_phase(report)}"
    if report.error:
        yield f"reason    {report.error}"
    if report.hint:
        yield f"to do     {report.hint}"
    if coming := report.upcoming:
        yield f"next      {coming.model} {_stage(coming)}"
    yield from _config(report)
    yield from _serving(report)


def _config(report: DaemonReport) -> Iterator[str]:
    """What came of the latest change of the configuration."""
    config = report.config
    if config is None:
        return
    if config.error:
        yield f"config    refused: {config.error}"
    if config.changes and config.changed_at is not None:
        keys = "; ".join(f"{change.key} {change.effect.words}" for change in config.changes)
        yield f"config    {format_duration(max(0.0, time.time() - config.changed_at))} ago: {keys}"
    if config.waiting:
        yield f"config    waits for `pensieved {restarting(config.waiting)}`: {', '.join(config.waiting)}"


def restarting(keys: tuple[str, ...]) -> str:
    """The command that brings keys into force which only a new process knows: some stand in the plist, too."""
    return "install" if "server.activation" in keys else "restart"


def _phase(report: DaemonReport) -> str:
    text = _stage(report)
    text += f", for {format_duration(max(0.0, time.time() - report.since))}"
    if report.retry_at is not None:
        text += f", tries again in {format_duration(max(0.0, report.retry_at - time.time()))}"
    return text


def _stage(stage: DaemonReport | Upcoming) -> str:
    """Phase, detail, and how far it is."""
    words = [stage.phase, stage.detail, _progress(stage.progress) if stage.progress else ""]
    return " ".join(word for word in words if word)


def _progress(progress: Progress) -> str:
    if not progress.total:
        return format_size(progress.done) if progress.done else ""
    parts = [f"{format_size(progress.done)} of {format_size(progress.total)}"]
    parts += [f"{100 * progress.done // progress.total} %"]
    parts += [f"{format_size(progress.rate)}/s"] if progress.rate else []
    parts += [f"{format_duration(progress.eta)} left"] if progress.eta is not None else []
    return ", ".join(parts)


def _serving(report: DaemonReport) -> Iterator[str]:
    if model := report.model:
        facts = [
            model.source,
            model.quantization,
            format_size(model.weight_bytes) if model.weight_bytes else "",
        ]
        yield f"model     {model.name} ({', '.join(fact for fact in facts if fact)})"
    if engine := report.engine:
        pid = f"pid {engine.pid}" if engine.pid else "no process"
        facts = [pid, _times(engine.restarts, "restart")]
        facts += [f"{_times(engine.resumed, 'stream')} resumed"] if engine.resumed else []
        facts += [
            f"{format_size(engine.active_memory)} in use",
            f"{format_size(engine.cache_memory)} kept for reuse",
        ]
        yield f"engine    {', '.join(facts)}"
    if requests := report.requests:
        refused = f", {requests.refused} sent away" if requests.refused else ""
        yield (
            f"requests  {requests.running} running, {requests.queued} waiting, {requests.finished} answered, "
            f"{requests.failed} failed{refused}; {requests.input_tokens} tokens in, {requests.output_tokens} out"
        )
    yield from _vitals(report)


def _vitals(report: DaemonReport) -> Iterator[str]:
    if speed := report.speed:
        words = f"{speed.tokens_per_second:.1f} tokens/s over the last {format_duration(speed.window)}"
        if speed.first_token_p50 is not None and speed.first_token_p95 is not None:
            words += (
                f"; first token after {speed.first_token_p50:.2f}s, 95 % within {speed.first_token_p95:.2f}s"
            )
        yield f"speed     {words}"
    if memory := report.memory:
        engine = f", engine {format_size(memory.engine)}" if memory.engine is not None else ""
        yield f"memory    daemon {format_size(memory.daemon)}{engine}{_guard(memory.guard)}"
    if cache := report.cache:
        free = f", {format_size(cache.free)} free" if cache.free is not None else ""
        yield f"cache     {format_size(cache.size)} on disk{free}"
    if prompts := report.prompt_cache:
        reused = report.requests.cached_tokens if report.requests else 0
        held = f"{format_size(prompts.memory)} in memory, {format_size(prompts.disk)} on disk"
        yield f"prompts   {held}; {reused} tokens not computed again"


def _guard(guard: GuardReport | None) -> str:
    """How much could still be had."""
    if guard is None or not guard.available + guard.margin:  # no engine has said so yet
        return ""
    words = f"; {format_size(guard.available)} available, {format_size(guard.margin)} of it left to others"
    waiting = f", {_times(guard.waiting, 'request')} waiting for it" if guard.waiting else ""
    return f"{words}{waiting}{'; new requests are refused' if guard.closed else ''}"


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _watch(label: str, *, as_json: bool) -> None:
    """On a terminal a picture that changes; elsewhere the lines whenever the phase or the percentage does."""
    if not as_json and sys.stdout.isatty():
        with Live(console=Console(), refresh_per_second=4) as live:
            while True:
                live.update(Text("\n".join(describe(look(label)))), refresh=True)
                time.sleep(_EVERY)
    told: Any = None
    while True:
        standing = look(label)
        if (now := _gist(standing)) != told:
            told = now
            typer.echo(to_json(standing) if as_json else "\n".join([*describe(standing), ""]))
            sys.stdout.flush()
        time.sleep(_EVERY)


def _gist(standing: Standing) -> Any:
    if standing.answer is None:
        return standing.agent_words()
    report = standing.answer.report
    progress = report.progress
    share = 100 * progress.done // progress.total if progress and progress.total else 0
    return report.started_at, report.phase, report.detail, report.error, share


def to_json(standing: Standing, indent: int | None = None) -> str:
    """What `--json` prints: words of launchd as they are, the daemon's status as it answers it."""
    job, answer = standing.job, standing.answer
    agent = {
        "label": standing.agent.label,
        "installed": standing.installed,
        "loaded": job is not None,
        "switched_off": standing.switched_off,
        "domain": job.domain if job else None,
        "state": job.state if job else None,
        "pid": job.pid if job else None,
        "runs": job.runs if job else None,
        "last_exit": job.last_exit if job else None,
        "plist": str(standing.agent.plist),
        "config": str(standing.agent.config),
    }
    content = {
        "ready": standing.ready,
        "url": standing.url,
        "agent": agent,
        "problems": standing.problems,
        "daemon": msgspec.json.decode(answer.raw) if answer else None,
    }
    return json.dumps(content, indent=indent)
