"""What is worth knowing of one request once it is over: counts, times and outcome; never text."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

log = structlog.get_logger()

ENVIRON_KEY = "pensieved.record"

# Asked every few seconds by watchdogs and menus: worth a line only to someone who debugs.
_UNLOGGED = frozenset({"started", "cache_header"})  # the header may say text, a line never
_QUIET_ROUTES = frozenset({"/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/status"})


def new_id(prefix: str, separator: str = "_") -> str:
    """A random identifier in the dialects' own form: ``req_…``, ``msg_…``, ``chatcmpl-…``."""
    return f"{prefix}{separator}{secrets.token_hex(12)}"


def request_id_headers(request_id: str) -> list[tuple[str, str]]:
    """On every response: `request-id` is where Anthropic's clients look, `x-request-id` where OpenAI's do."""
    return [("request-id", request_id), ("x-request-id", request_id)]


@dataclass(kw_only=True)
class RequestRecord:
    """One request's line in the log. Times in seconds; fields stay None where they do not apply."""

    method: str
    route: str
    request_id: str = field(default_factory=lambda: new_id("req"))
    started: float = field(default_factory=time.monotonic)
    status: int | None = None
    model: str | None = None
    stream: bool | None = None
    stop_reason: str | None = None
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    diverged_at: int | None = None
    dropped_lines: int | None = None
    queue_seconds: float | None = None
    ttft_seconds: float | None = None
    cache_header: str = ""

    def elapsed(self) -> float:
        """Seconds since the request was read."""
        return time.monotonic() - self.started

    def emit(self) -> None:
        """Write the line."""
        line = log.debug if self.route in _QUIET_ROUTES and self.error is None else log.info
        fields = {
            name: _shown(value)
            for name, value in vars(self).items()
            if name not in _UNLOGGED and value is not None
        }
        line("request", **fields, total_seconds=_shown(self.elapsed()))


def record_of(environ: Mapping[str, Any]) -> RequestRecord:
    """The record that `observe` put beside the request."""
    record = environ[ENVIRON_KEY]
    assert isinstance(record, RequestRecord)  # noqa: S101  for the type checker
    return record


def _shown(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
