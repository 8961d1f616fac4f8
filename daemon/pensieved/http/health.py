"""Routes for watchdogs, operators and the curious: page, health, readiness, status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import falcon
import msgspec

from pensieved import __version__
from pensieved.control.status import Phase, Status
from pensieved.http.errors import RETRY_ADVICE
from pensieved.http.ledger import RATE_SECONDS
from pensieved.http.readiness import no_memory, retry_after, would_answer

if TYPE_CHECKING:
    from pensieved.control.serving import ServingModel
    from pensieved.http.daemon import Daemon
    from pensieved.http.metrics import Sources

_HEALTH = {
    Phase.READY: "healthy",
    Phase.DEGRADED: "degraded",
    Phase.FAILED: "failed",
    Phase.DRAINING: "degraded",
}


class Page:
    """GET / and HEAD /: that this is a pensieved, and where to go."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """A few lines of plain text."""
        serving = self._daemon.serving
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = (
            f"pensieved {__version__}: {self._daemon.status.current.phase.value}\n"
            f"model: {serving.name if serving else 'none yet'}\n\n"
            "POST /v1/messages               Anthropic Messages\n"
            "POST /v1/messages/count_tokens\n"
            "POST /v1/chat/completions       OpenAI\n"
            "POST /v1/completions, /v1/responses\n"
            "GET  /v1/models\n"
            "GET  /openapi.json              all of it, for machines\n"
            "GET  /v1/status                 everything an operator wants to know\n"
            "GET  /health, /ready, /metrics\n"
        )

    on_head = on_get


class Health:
    """GET /health: 200 while the daemon lives, whatever the model does."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """`status` is healthy, starting, degraded or failed."""
        phase = self._daemon.status.current.phase
        resp.data = msgspec.json.encode(
            {
                "status": _HEALTH.get(phase, "starting"),
                "model_loaded": self._daemon.serving is not None,
                "phase": phase,
                "timestamp": time.time(),
                "version": __version__,
            }
        )

    on_head = on_get


class Ready:
    """GET /ready: 200 only when a request would be answered now, and no slower than later ones."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """503 carries Retry-After where waiting helps."""
        status = self._daemon.status.current
        short = no_memory(self._daemon.engine_stats())
        ready = self._daemon.serving is not None and would_answer(status) and short is None
        resp.data = msgspec.json.encode({"ready": ready, "phase": status.phase})
        if not ready:
            resp.status = falcon.HTTP_503
            seconds = short.retry_after if short else retry_after(status)
            if seconds is not None:
                resp.set_header(RETRY_ADVICE, str(seconds))

    on_head = on_get


class StatusReport:
    """GET /v1/status: the daemon's whole state, as JSON."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._daemon = sources.daemon

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Sizes in bytes, durations in seconds, times in seconds since the epoch."""
        status, serving = self._daemon.status.current, self._daemon.serving
        resp.data = msgspec.json.encode(
            {
                "version": __version__,
                "started_at": self._daemon.started_at,
                "uptime": time.time() - self._daemon.started_at,
                **_phase(status),
                "settled": self._daemon.settled,
                "config": self._daemon.config_report,
                "model": _model(serving) if serving else None,
                "engine": self._engine(),
                "requests": self._requests(),
                "speed": self._speed(),
                "memory": self._memory(),
                "cache": self._cache(),
                "prompt_cache": self._prompt_cache(),
                "limits": self._limits(serving),
            }
        )

    def _engine(self) -> dict[str, Any] | None:
        stats = self._daemon.engine_stats()
        if stats is None:
            return None
        return {
            "pid": stats.pid,
            "restarts": stats.restarts,
            "resumed": stats.resumed,
            "running": stats.running,
            "active_memory": stats.active_memory,
            "cache_memory": stats.cache_memory,
            "drafted_tokens": stats.speculation.drafted,
            "accepted_tokens": stats.speculation.accepted,
        }

    def _requests(self) -> dict[str, int]:
        admission, ledger = self._sources.admission, self._sources.ledger
        return {
            "running": admission.running,
            "queued": admission.queued,
            "refused": admission.refused,
            "finished": ledger.answers,
            "failed": ledger.failed,
            "input_tokens": ledger.input_tokens,
            "cached_tokens": ledger.cached_tokens,
            "output_tokens": ledger.output_tokens,
            "dropped_lines": ledger.dropped_lines,
        }

    def _speed(self) -> dict[str, float | None]:
        """Lately: tokens of the last seconds, first tokens of the last few hundred answers."""
        ledger = self._sources.ledger
        median, slow = ledger.first_token_percentiles(0.5, 0.95)
        return {
            "tokens_per_second": ledger.tokens_per_second(),
            "window": RATE_SECONDS,
            "first_token_p50": median,
            "first_token_p95": slow,
        }

    def _memory(self) -> dict[str, Any]:
        """As the system counts it; what MLX counts is the engine's. `guard` is what that sees of its device."""
        vitals, stats = self._sources.vitals, self._daemon.engine_stats()
        guard = stats.memory if stats is not None else None
        return {
            "daemon": vitals.resident,
            "engine": vitals.engine_resident,
            "guard": {name: getattr(guard, name) for name in guard.__struct_fields__} if guard else None,
        }

    def _cache(self) -> dict[str, Any]:
        vitals = self._sources.vitals
        return {
            "dir": str(vitals.cache_dir),
            "size": sum(vitals.cache_bytes().values()),
            "free": vitals.free_bytes(),
        }

    def _prompt_cache(self) -> dict[str, int] | None:
        stats = self._daemon.engine_stats()
        if stats is None:
            return None
        held = stats.prompt_cache
        return {
            "entries": held.entries,
            "memory": held.memory,
            "disk_entries": held.disk_entries,
            "disk": held.disk,
        }

    def _limits(self, serving: ServingModel | None) -> dict[str, Any]:
        server = self._daemon.settings.server
        return {
            "max_concurrent": self._sources.admission.max_concurrent,
            "max_queued": self._sources.admission.max_queued,
            "context_length": serving.context_length if serving else None,
            "max_body": server.max_body,
            "request_timeout": server.request_timeout,
        }


def _phase(status: Status) -> dict[str, Any]:
    return {
        "phase": status.phase,
        "since": status.since,
        "detail": status.detail,
        "progress": status.progress,
        "error": status.error,
        "hint": status.hint,
        "retry_at": status.retry_at,
        "upcoming": status.upcoming,
    }


def _model(serving: ServingModel) -> dict[str, Any]:
    manifest = serving.manifest
    return {
        "name": serving.name,
        "aliases": serving.aliases,
        "loaded_at": serving.loaded_at,
        "source": manifest.source,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "quantization": manifest.effective_quantization,
        "architecture": manifest.architecture,
        "parameters": manifest.parameters,
        "weight_bytes": manifest.weight_bytes,
    }
