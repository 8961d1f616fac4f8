"""GET /metrics: one table of everything that is measured, in Prometheus' terms.

A row says what a metric is and how it is read off the app; `exposition` writes rows in Prometheus' format and docs
show them. Names follow Prometheus' conventions: base units (`_seconds`, `_bytes`), counters end in `_total`, and
values of one name may be summed over its labels. Every label has a bounded set of values: routes are templates,
and whatever clients make up (paths, model names) is none. `process_…` names are those that Prometheus' own clients
give their processes.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from pensieved import __version__
from pensieved.control.status import Phase
from pensieved.http.dialects import dialect_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import falcon

    from pensieved.http.admission import Admission
    from pensieved.http.daemon import Daemon
    from pensieved.http.ledger import Histogram, Ledger
    from pensieved.http.vitals import Vitals

    Kind = Literal["counter", "gauge", "histogram", "info", "stateset"]
    Reading = (
        float
        | None  # nothing to tell at the moment: the metric has no sample
        | Mapping[tuple[str, ...], float]  # by label values
        | Histogram
        | Mapping[str, str]  # an info's labels
        | Mapping[str, bool]  # states
    )


@dataclass(frozen=True)
class Sources:
    """What metrics are read from."""

    daemon: Daemon
    admission: Admission
    ledger: Ledger
    vitals: Vitals


@dataclass(frozen=True)
class Metric:
    """One row. `name` without what its kind appends (`_total`, `_info`), with its unit."""

    name: str
    kind: Kind
    help: str
    read: Callable[[Sources], Reading]
    unit: str = ""
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """Its name as Prometheus shows it."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _requests(sources: Sources) -> Mapping[tuple[str, ...], float]:
    counts: dict[tuple[str, ...], float] = {}
    for (route, status), count in sources.ledger.requests().items():
        counts[route, dialect_of(route), str(status)] = count
    return counts


def _failures(sources: Sources) -> Mapping[tuple[str, ...], float]:
    return {(kind,): count for kind, count in sources.ledger.failures().items()}


def _cache(sources: Sources) -> Mapping[tuple[str, ...], float]:
    return {(part,): size for part, size in sources.vitals.cache_bytes().items()}


def _phases(sources: Sources) -> Mapping[str, bool]:
    current = sources.daemon.status.current.phase
    return {phase.value: phase is current for phase in Phase}


def _model(sources: Sources) -> Mapping[str, str] | None:
    serving = sources.daemon.serving
    if serving is None:
        return None
    manifest = serving.manifest
    return {"name": serving.name, "source": manifest.source, "quantization": manifest.effective_quantization}


@functools.cache
def build() -> Mapping[str, str]:
    """What this daemon is made of."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "mlx": _version("mlx"),
        "mlx_lm": _version("mlx-lm"),
        "system": platform.system(),
        "machine": platform.machine(),
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _engine(name: str) -> Callable[[Sources], float | None]:
    """A number of the engine's, or None while there is no engine."""

    def read(sources: Sources) -> float | None:
        stats = sources.daemon.engine_stats()
        return None if stats is None else float(getattr(stats, name))

    return read


def _prompt_cache(memory: str, disk: str) -> Callable[[Sources], Mapping[tuple[str, ...], float] | None]:
    """Two numbers of the prompt cache's, by place."""

    def read(sources: Sources) -> Mapping[tuple[str, ...], float] | None:
        stats = sources.daemon.engine_stats()
        if stats is None:
            return None
        held = stats.prompt_cache
        return {("memory",): getattr(held, memory), ("disk",): getattr(held, disk)}

    return read


def _guard(name: str) -> Callable[[Sources], float | None]:
    """A number of the memory guard's, or None while there is no engine."""

    def read(sources: Sources) -> float | None:
        stats = sources.daemon.engine_stats()
        return None if stats is None else float(getattr(stats.memory, name))

    return read


def _drafts(sources: Sources) -> Mapping[tuple[str, ...], float] | None:
    """Tokens drafted, by whether they were right."""
    stats = sources.daemon.engine_stats()
    if stats is None:
        return None
    made = stats.speculation
    return {("accepted",): made.accepted, ("rejected",): made.drafted - made.accepted}


METRICS: tuple[Metric, ...] = (
    Metric("pensieved_build", "info", "Versions of what this daemon is made of.", lambda _: build()),
    Metric("pensieved_model", "info", "The resident model; none while there is none.", _model),
    Metric("pensieved_phase", "stateset", "The phase the daemon is in: 1 for that one, 0 for the others.", _phases),
    Metric(
        "pensieved_phase_start_time_seconds",
        "gauge",
        "When it entered that phase, since the epoch.",
        lambda s: s.daemon.status.current.since,
        "seconds",
    ),
    Metric(
        "pensieved_http_requests",
        "counter",
        "HTTP requests that are over, by route, dialect and status. Streams count with the status they began with.",
        _requests,
        labels=("route", "dialect", "status"),
    ),
    Metric(
        "pensieved_request_failures",
        "counter",
        "HTTP requests that failed, streams that broke off included, by what went wrong.",
        _failures,
        labels=("kind",),
    ),
    Metric(
        "pensieved_admission_refusals",
        "counter",
        "Requests sent away because every slot and every place in the queue was taken.",
        lambda s: s.admission.refused,
    ),
    Metric("pensieved_requests_running", "gauge", "Answers that hold a slot.", lambda s: s.admission.running),
    Metric("pensieved_requests_queued", "gauge", "Answers that wait for a slot.", lambda s: s.admission.queued),
    Metric("pensieved_request_slots", "gauge", "Answers that may run together.", lambda s: s.admission.max_concurrent),
    Metric("pensieved_request_queue_places", "gauge", "Answers that may wait.", lambda s: s.admission.max_queued),
    Metric(
        "pensieved_queue_wait_seconds",
        "histogram",
        "From a request's arrival until its answer had a slot and a model.",
        lambda s: s.ledger.queue_wait,
        "seconds",
    ),
    Metric(
        "pensieved_time_to_first_token_seconds",
        "histogram",
        "From a request's arrival to the first text of its answer.",
        lambda s: s.ledger.first_token,
        "seconds",
    ),
    Metric(
        "pensieved_inter_token_seconds",
        "histogram",
        "Between two tokens of an answer, the first one's wait excluded.",
        lambda s: s.ledger.between_tokens,
        "seconds",
    ),
    Metric(
        "pensieved_answer_duration_seconds",
        "histogram",
        "From a request's arrival to the end of its answer, of answers that did not fail.",
        lambda s: s.ledger.whole,
        "seconds",
    ),
    Metric("pensieved_input_tokens", "counter", "Prompt tokens of answers that are over.", lambda s: s.ledger.input_tokens),
    Metric(
        "pensieved_cached_input_tokens",
        "counter",
        "Of those, the ones that were not computed again, because the prompt cache had them.",
        lambda s: s.ledger.cached_tokens,
    ),
    Metric("pensieved_output_tokens", "counter", "Tokens generated, running answers included.", lambda s: s.ledger.output_tokens),
    Metric(
        "pensieved_canonicalised_requests",
        "counter",
        "Requests from whose prompt volatile lines were dropped ([prompt] drop_lines).",
        lambda s: s.ledger.canonicalised,
    ),
    Metric("pensieved_dropped_lines", "counter", "Volatile lines dropped from prompts.", lambda s: s.ledger.dropped_lines),
    Metric("pensieved_engine_restarts", "counter", "Engines started because the one before had died.", _engine("restarts")),
    Metric("pensieved_streams_resumed", "counter", "Answers handed to another engine after theirs had died.", _engine("resumed")),
    Metric(
        "pensieved_engine_active_memory_bytes",
        "gauge",
        "Memory that MLX has in use: weights, KV cache, scratch.",
        _engine("active_memory"),
        "bytes",
    ),
    Metric(
        "pensieved_engine_cache_memory_bytes",
        "gauge",
        "Memory that MLX keeps for reuse.",
        _engine("cache_memory"),
        "bytes",
    ),
    Metric(
        "pensieved_engine_resident_memory_bytes",
        "gauge",
        "The engine process' memory as the system counts it.",
        lambda s: s.vitals.engine_resident,
        "bytes",
    ),
    Metric(
        "pensieved_memory_available_bytes",
        "gauge",
        "Memory that the engine's device could still give, the safety margin included.",
        _guard("available"),
        "bytes",
    ),
    Metric(
        "pensieved_memory_safety_margin_bytes",
        "gauge",
        "What of it is left to the rest of the machine.",
        _guard("margin"),
        "bytes",
    ),
    Metric(
        "pensieved_memory_closed",
        "gauge",
        "1 while new requests are refused for lack of memory, else 0.",
        _guard("closed"),
    ),
    Metric("pensieved_memory_requests_waiting", "gauge", "Requests in the engine that wait for memory.", _guard("waiting")),
    Metric(
        "pensieved_memory_sheds",
        "counter",
        "Times that the engine let go of caches because memory was short.",
        _guard("sheds"),
    ),
    Metric(
        "pensieved_memory_shed_bytes",
        "counter",
        "What it let go of, since the engine began.",
        _guard("shed"),
        "bytes",
    ),
    Metric(
        "pensieved_drafted_tokens",
        "counter",
        "Tokens that the running engine computed ahead, by whether they were what comes next.",
        _drafts,
        labels=("outcome",),
    ),
    Metric(
        "pensieved_prompt_cache_bytes",
        "gauge",
        "What the prompt cache holds, in memory and on disk; on disk of all models.",
        _prompt_cache("memory", "disk"),
        "bytes",
        ("place",),
    ),
    Metric(
        "pensieved_prompt_cache_entries",
        "gauge",
        "Pieces of prompts and answers in the prompt cache, in memory and on disk.",
        _prompt_cache("entries", "disk_entries"),
        labels=("place",),
    ),
    Metric(
        "pensieved_cache_bytes",
        "gauge",
        "What the cache of prepared models takes on disk, by its folders.",
        _cache,
        "bytes",
        ("part",),
    ),
    Metric("pensieved_cache_free_bytes", "gauge", "What is left on the cache's disk.", lambda s: s.vitals.free_bytes(), "bytes"),
    Metric("process_resident_memory_bytes", "gauge", "The daemon's memory as the system counts it.", lambda s: s.vitals.resident, "bytes"),
    Metric("process_cpu_seconds", "counter", "Processor time of the daemon.", lambda s: s.vitals.cpu_seconds, "seconds"),
    Metric("process_open_fds", "gauge", "File descriptors of the daemon.", lambda s: s.vitals.open_files),
    Metric("process_start_time_seconds", "gauge", "When the daemon's process began, since the epoch.", lambda s: s.vitals.started_at, "seconds"),
)  # fmt: skip


class Metrics:
    """GET /metrics."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Prometheus' text format; OpenMetrics for who asks for it."""
        from pensieved.http.exposition import expose  # noqa: PLC0415  its library is for daemons that are scraped

        resp.data, resp.content_type = expose(self._sources, req.get_header("accept") or "")
