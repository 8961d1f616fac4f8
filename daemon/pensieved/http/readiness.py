"""Whether requests can be answered, and what to tell those that cannot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pensieved.control.status import SOON_READY, Phase, Status
from pensieved.engine.client import RETRY_SECONDS
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.admission import bounded_retry
from pensieved.settings.units import format_duration, format_size

if TYPE_CHECKING:
    from pensieved.http.daemon import EngineStats
    from pensieved.models.progress import Progress

_SERVING = frozenset({Phase.READY, Phase.DEGRADED})
_LOADING_RETRY = 2
_PREPARING_RETRY = 10


def is_serving(status: Status) -> bool:
    """Whether a request would be answered now."""
    return status.phase in _SERVING


def would_answer(status: Status) -> bool:
    """The same, given that there is a model: one that left memory comes back for a request."""
    return is_serving(status) or status.phase is Phase.IDLE


def refusal(status: Status) -> RequestError | None:
    """Why a request cannot even wait in this phase, or None where it can."""
    if is_serving(status) or status.phase in SOON_READY:
        return None
    if status.phase is Phase.DRAINING:
        return RequestError(
            RequestErrorKind.UNAVAILABLE, "The daemon is shutting down.", retry_after=retry_after(status)
        )
    if status.phase is Phase.FAILED:
        reason = " ".join(part for part in (status.error, status.hint) if part)
        return RequestError(
            RequestErrorKind.UNAVAILABLE,
            f"The model cannot be served. {reason}".strip(),
            retry_after=retry_after(status),
        )
    return not_ready(status)


def not_ready(status: Status) -> RequestError:
    """The model is on its way: the phase, how far it is, and when to ask again."""
    how_far = _describe(status.progress) if status.progress else status.detail
    return RequestError(
        RequestErrorKind.OVERLOADED,
        f"The model is not ready yet: {status.phase.value}{f' ({how_far})' if how_far else ''}.",
        retry_after=retry_after(status),
    )


def no_memory(engine: EngineStats | None) -> RequestError | None:
    """Why there is too little memory for another request, or None where there is enough."""
    if engine is None or not engine.memory.closed:
        return None
    memory = engine.memory
    others = f" ({memory.waiting} in line for it)" if memory.waiting else ""
    return RequestError(
        RequestErrorKind.OVERLOADED,
        f"There is too little memory for another request: {format_size(memory.available)} are available{others};"
        f" {format_size(memory.margin)} are left to the rest of the machine (memory.safety_margin).",
        retry_after=RETRY_SECONDS,
    )


def retry_after(status: Status) -> int | None:
    """Seconds until it makes sense to ask again, 1 to 60; None when waiting alone does not help."""
    if status.retry_at is not None:
        return bounded_retry(status.retry_at - time.time())
    if status.phase is Phase.FAILED:
        return None
    if status.progress is not None and status.progress.eta is not None:
        return bounded_retry(status.progress.eta)
    return _LOADING_RETRY if status.phase in SOON_READY else _PREPARING_RETRY


def _describe(progress: Progress) -> str:
    parts = [format_size(progress.done)]
    if progress.total:
        percent = 100 * progress.done // progress.total
        parts = [f"{format_size(progress.done)} of {format_size(progress.total)}, {percent} %"]
    if progress.eta is not None:
        parts.append(f"about {format_duration(progress.eta)} left")
    return ", ".join(parts)
