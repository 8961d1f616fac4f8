"""A preparation's progress on the terminal: a bar where there is one, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from pensieved.settings.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.models.progress import Progress

_LINE_SECONDS = 10.0


class Display(Protocol):
    """What shows a preparation."""

    def progress(self, progress: Progress) -> None:
        """It got further."""

    def note(self, text: str) -> None:
        """Something worth reading happened."""


@contextlib.contextmanager
def progress_display() -> Iterator[Display]:
    """The display for this stderr."""
    if not sys.stderr.isatty():
        yield LineDisplay()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield BarDisplay(bars)


class BarDisplay:
    """One bar, which starts anew with each stage."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("resolving", total=None)
        self._stage = ""

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        stage = f"{progress.stage.value} {progress.detail}".strip()
        if stage != self._stage:
            self._stage = stage
            self._bars.reset(self._task, description=stage, total=progress.total)
        self._bars.update(self._task, completed=progress.done, total=progress.total)

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._bars.console.print(text, markup=False, highlight=False)


class LineDisplay:
    """A line at each new stage, and every ten seconds within one."""

    def __init__(self) -> None:
        self._stage = ""
        self._written = 0.0

    def progress(self, progress: Progress) -> None:
        """Write a line if it is time for one."""
        stage = f"{progress.stage.value} {progress.detail}".strip()
        if stage != self._stage or time.monotonic() - self._written >= _LINE_SECONDS:
            self._stage = stage
            self._written = time.monotonic()
            self.note(stage + _amount(progress))

    def note(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _amount(progress: Progress) -> str:
    if not progress.total:
        return ""
    text = f": {format_size(progress.done)} of {format_size(progress.total)}"
    if progress.rate:
        text += f", {format_size(progress.rate)}/s"
    return text + (f", {format_duration(progress.eta)} left" if progress.eta else "")
