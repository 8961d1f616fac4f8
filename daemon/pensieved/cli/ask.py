"""What a running daemon says of itself, asked over HTTP like anybody would."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import msgspec

from pensieved.control.reload import ConfigReport
from pensieved.control.status import Upcoming
from pensieved.models.progress import Progress

if TYPE_CHECKING:
    from pensieved.cli.address import Address

_TIMEOUT = 5.0
_OK = 200
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must not see loopback


class ModelReport(msgspec.Struct, frozen=True):
    """The resident model."""

    name: str
    source: str = ""
    quantization: str = ""
    weight_bytes: int | None = None


class EngineReport(msgspec.Struct, frozen=True):
    """The engine process; sizes in bytes."""

    pid: int | None = None
    restarts: int = 0
    resumed: int = 0
    active_memory: int = 0
    cache_memory: int = 0


class RequestsReport(msgspec.Struct, frozen=True):
    """Requests now and since the start."""

    running: int = 0
    queued: int = 0
    refused: int = 0
    finished: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class SpeedReport(msgspec.Struct, frozen=True):
    """Lately: tokens a second, over `window` seconds; times to the first token in seconds."""

    tokens_per_second: float = 0.0
    window: float = 0.0
    first_token_p50: float | None = None
    first_token_p95: float | None = None


class GuardReport(msgspec.Struct, frozen=True):
    """What the engine's memory guard sees; sizes in bytes."""

    available: int = 0
    margin: int = 0
    closed: bool = False
    waiting: int = 0


class MemoryReport(msgspec.Struct, frozen=True):
    """Resident memory of the processes, in bytes."""

    daemon: int = 0
    engine: int | None = None
    guard: GuardReport | None = None


class CacheReport(msgspec.Struct, frozen=True):
    """What prepared models take on disk, and what is left there, in bytes."""

    size: int = 0
    free: int | None = None


class PromptCacheReport(msgspec.Struct, frozen=True):
    """What the prompt cache holds, in bytes."""

    memory: int = 0
    disk: int = 0


class DaemonReport(msgspec.Struct, frozen=True):
    """The part of GET /v1/status that commands show or decide by; what it says besides is passed over."""

    version: str
    started_at: float
    uptime: float
    phase: str
    since: float
    detail: str = ""
    progress: Progress | None = None
    error: str | None = None
    hint: str | None = None
    retry_at: float | None = None
    upcoming: Upcoming | None = None
    settled: bool = True
    config: ConfigReport | None = None
    model: ModelReport | None = None
    engine: EngineReport | None = None
    requests: RequestsReport | None = None
    speed: SpeedReport | None = None
    memory: MemoryReport | None = None
    cache: CacheReport | None = None
    prompt_cache: PromptCacheReport | None = None

    @property
    def short_of_memory(self) -> bool:
        """Whether nothing but memory is missing: it answers requests as others leave some."""
        guard = self.memory.guard if self.memory is not None else None
        return self.phase == "ready" and guard is not None and guard.closed

    @property
    def read_at(self) -> float:
        """When it read its configuration last."""
        return max(self.started_at, self.config.read_at if self.config else 0.0)


class Answer(msgspec.Struct, frozen=True):
    """A daemon's report, the same as JSON, and whether it answers requests."""

    report: DaemonReport
    raw: msgspec.Raw
    ready: bool


def ask(address: Address) -> Answer | None:
    """What the daemon there says; None where none answers, or something else does."""
    ready = _fetch(address, "/ready")[0]  # first, so that the report of a ready daemon is not an older one
    if not ready:
        return None
    status, body = _fetch(address, "/v1/status")
    if status != _OK:
        return None
    try:
        report = msgspec.json.decode(body, type=DaemonReport)
    except msgspec.MsgspecError:
        return None
    return Answer(report, msgspec.Raw(body), ready == _OK)


def reload_config(address: Address) -> ConfigReport | None:
    """Have the daemon there read its configuration again; None where none answers."""
    status, body = _fetch(address, "/v1/reload", method="POST")
    return msgspec.json.decode(body, type=ConfigReport) if status == _OK else None


def _fetch(address: Address, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body; status 0 where nobody answers."""
    headers = {"x-api-key": address.key} if address.key else {}
    url = address.url + path
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310  always http://
    try:
        with _direct.open(request, timeout=_TIMEOUT) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code, b""
    except (OSError, http.client.HTTPException):
        return 0, b""
