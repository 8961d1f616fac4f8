"""Waiting for `/ready`, with a display of what the daemon does meanwhile, and an end when it is hopeless."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pensieved.cli.ask import Answer, ask
from pensieved.cli.progress import progress_display
from pensieved.errors import NotRunningError, PermanentError, ServiceError, TemporaryError
from pensieved.settings.units import format_duration

if TYPE_CHECKING:
    from pensieved.cli.address import Address
    from pensieved.cli.ask import DaemonReport
    from pensieved.cli.progress import Display
    from pensieved.service.lifecycle import Lifecycle

_POLL = 0.25
_ASK_LAUNCHD = 1.0  # seconds between looks at the agent while its daemon does not answer
_SILENCE = 60.0  # a process that does not open its port for so long has failed
_FAILING = 45.0  # a failure that is retried may heal itself for so long
_RESPAWNS = 3


@dataclass(frozen=True)
class Wait:
    """What is waited for.

    Args:
        lifecycle: the agent.
        address: of its daemon.
        not_before: seconds since the epoch; a daemon that started earlier is the one that is being replaced.
        read_since: the same for a daemon that goes on, and reads a changed configuration.
        timeout: seconds after which to give up, whatever happens; None waits as long as there is progress.
    """

    lifecycle: Lifecycle
    address: Address
    not_before: float
    timeout: float | None = None
    read_since: float = 0.0

    def until_ready(self) -> Answer:
        """The ready daemon's answer.

        Raises:
            PensievedError: why it will not become ready, or not by itself; the daemon goes on trying where that helps.
        """
        with progress_display() as display:
            return _Watcher(self, display).run()


class _Watcher:
    def __init__(self, wait: Wait, display: Display) -> None:
        self._wait = wait
        self._display = display
        self._began = self._heard = time.monotonic()
        self._failing: float | None = None
        self._asked = 0.0
        self._first_runs: int | None = None
        self._told = ""

    def run(self) -> Answer:
        while True:
            answer = ask(self._wait.address)
            if answer is None or answer.report.started_at < self._wait.not_before:
                self._look_at_agent()
            elif answer.report.read_at < self._wait.read_since or not answer.report.settled:
                self._heard = time.monotonic()
                self._follow(answer.report)
            elif answer.report.phase == "degraded":
                self._failed(answer.report)
            elif answer.ready or answer.report.short_of_memory:
                return answer
            else:
                self._heard = time.monotonic()
                self._follow(answer.report)
            self._give_up_in_time()
            time.sleep(_POLL)

    def _follow(self, report: DaemonReport) -> None:
        """Show it; a permanent failure ends the wait, one that is retried only when it lasts."""
        if report.phase == "failed":
            self._failed(report)
        else:
            self._failing = None
            stage = report.upcoming or report
            if stage.progress is not None:
                self._display.progress(stage.progress)
            else:
                self._tell(f"{stage.phase} {stage.detail}".strip())

    def _failed(self, report: DaemonReport) -> None:
        what, hint = report.error or "The daemon has failed.", report.hint or ""
        if report.retry_at is None:
            raise PermanentError(what, hint=hint)
        self._failing = self._failing or time.monotonic()
        self._tell(f"failed: {what} It tries again by itself.")
        if time.monotonic() - self._failing > _FAILING:
            soon = format_duration(max(0.0, report.retry_at - time.time()))
            raise TemporaryError(
                what, hint=f"{hint} The daemon tries again by itself, next in {soon}.".strip()
            )

    def _look_at_agent(self) -> None:
        """Why nobody answers: it is starting, it keeps crashing, or it is not there at all."""
        now = time.monotonic()
        if now - self._asked < _ASK_LAUNCHD:
            return
        self._asked = now
        job = self._wait.lifecycle.job()
        if job is None:
            raise NotRunningError("The agent is not loaded any more: somebody stopped it.")
        if job.runs is not None:
            self._first_runs = job.runs if self._first_runs is None else self._first_runs
            if job.runs - self._first_runs >= _RESPAWNS:
                raise ServiceError(f"The daemon ends again and again as soon as it starts ({job.last_exit}).")
        if job.pid is None and job.state == "not running":
            raise ServiceError(f"The daemon has ended ({job.last_exit or 'launchd does not say how'}).")
        if now - self._heard > _SILENCE:
            raise ServiceError(f"The daemon runs but does not answer on {self._wait.address.url}.")
        self._tell("starting")

    def _give_up_in_time(self) -> None:
        timeout = self._wait.timeout
        if timeout is not None and time.monotonic() - self._began > timeout:
            raise TemporaryError(
                f"It was not ready within {format_duration(timeout)}.", hint="It goes on in the background."
            )

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._display.note(text)
