"""Which dialect a path belongs to, where an error must be said before anyone has read the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.http.anthropic.errors import envelope as anthropic_envelope
from pensieved.http.openai.errors import detail
from pensieved.http.openai.errors import envelope as openai_envelope

if TYPE_CHECKING:
    from pensieved.errors import RequestError
    from pensieved.http.errors import Envelope

_OPENAI = (
    "/v1/assistants",
    "/v1/audio",
    "/v1/batches",
    "/v1/chat",
    "/v1/completions",
    "/v1/conversations",
    "/v1/embeddings",
    "/v1/evals",
    "/v1/fine_tuning",
    "/v1/images",
    "/v1/moderations",
    "/v1/realtime",
    "/v1/responses",
    "/v1/threads",
    "/v1/uploads",
    "/v1/vector_stores",
    "/v1/videos",
)
"""Everything that OpenAI's clients ask for below /v1, answered here or not. `/v1/files` is in both APIs."""

_ANTHROPIC = ("/v1/complete", "/v1/messages")

_BOTH = ("/v1/models", "/v1/files")


def envelope_of(path: str) -> Envelope:
    """The dialect in which errors on `path` are said; Anthropic's where nobody's clients go."""
    if _is_below(path, _OPENAI):
        return openai_envelope
    return _both if _is_below(path, _BOTH) else anthropic_envelope


def dialect_of(route: str) -> str:
    """The dialect whose clients ask for `route`: anthropic, openai, both or none."""
    if _is_below(route, _OPENAI):
        return "openai"
    if _is_below(route, _BOTH):
        return "both"
    return "anthropic" if _is_below(route, _ANTHROPIC) else "none"


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _both(error: RequestError, request_id: str) -> tuple[str, bytes]:
    """Anthropic's envelope with the fields of OpenAI's inner object beside its own: either's clients read it."""
    status, body = anthropic_envelope(error, request_id)
    content = msgspec.json.decode(body)
    content["error"] = {**msgspec.to_builtins(detail(error)), **content["error"]}
    return status, msgspec.json.encode(content)
