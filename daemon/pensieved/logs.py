"""Logging through structlog: readable on a terminal, JSON lines elsewhere; on stderr, or in a file that rotates.

With a file, stderr gets the log only where it is a terminal: under launchd stderr is a file too, which nobody
rotates. Events carry ids, names, counts and times; never prompts, completions or keys.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import structlog

from pensieved.logfile import LogFile, RotatingStream, trim_output

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

    from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.StackInfoRenderer(),
]


class _Sink(NamedTuple):
    """A stream, and what turns an event into its text."""

    stream: TextIO | RotatingStream
    chain: list[Processor]


def configure_logging(level: str, log_format: LogFormat, file: LogFile | None = None) -> None:
    """Set up structlog and route the standard library's logging (Waitress, huggingface_hub) through it."""
    terminal = sys.stderr.isatty()
    sinks = []
    if file is not None:
        trim_output(sys.stderr)
        sinks.append(_Sink(RotatingStream(file), _chain(console=log_format == "console", colors=False)))
    if file is None or terminal:
        console = terminal if log_format == "auto" else log_format == "console"
        sinks.append(_Sink(sys.stderr, _chain(console=console, colors=terminal)))
    structlog.configure(
        processors=[*_SHARED, _Writer(sinks)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [_handler(sink) for sink in sinks]
    for handler in before:  # configured anew while it runs: a file that is no longer wanted is closed
        if isinstance(stream := getattr(handler, "stream", None), RotatingStream):
            stream.close()
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


class _Writer:
    """The last processor: renders the event for each sink, and writes it there."""

    def __init__(self, sinks: list[_Sink]) -> None:
        self._sinks = sinks

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        for sink in self._sinks:
            text: Any = dict(event)
            for processor in sink.chain:
                text = processor(logger, method, text)
            with contextlib.suppress(
                OSError, ValueError
            ):  # a full disk or a closed terminal fails no request
                sink.stream.write(f"{text}\n")
                sink.stream.flush()
        raise structlog.DropEvent


def _chain(*, console: bool, colors: bool) -> list[Processor]:
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console)
    if console:
        return [stamp, _console(colors=colors)]
    as_json = structlog.processors.JSONRenderer(ensure_ascii=False)
    return [stamp, structlog.processors.format_exc_info, as_json]


def _console(*, colors: bool) -> Processor:
    """Plain tracebacks: structlog's own choice, where rich is installed, prints local variables, prompts among them."""
    formatter = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=24, exception_formatter=formatter)


def _handler(sink: _Sink) -> logging.Handler:
    handler = logging.StreamHandler(sink.stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *sink.chain],
        )
    )
    return handler
