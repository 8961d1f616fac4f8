"""What huggingface_hub and its HTTP client raise, as what it means for the user."""

from __future__ import annotations

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pensieved.errors import ModelUnavailableError, PensievedError, SourceUnreachableError

_FORBIDDEN = frozenset({401, 403})
_TRANSIENT = frozenset({408, 425, 429})
_SERVER_ERROR = 500
_LOGIN = "set HF_TOKEN (or run `hf auth login`)"

NETWORK_ERRORS = (httpx2.TransportError, HfHubHTTPError, OfflineModeIsEnabled)
"""What a request to the Hub may raise."""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in _TRANSIENT or status >= _SERVER_ERROR
    return isinstance(error, httpx2.TransportError)


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, or not as itself; what is cached may still do."""
    return isinstance(error, OfflineModeIsEnabled) or is_transient(error)


def retry_after(error: Exception) -> float | None:
    """Seconds that the server asked to wait, or None."""
    value = error.response.headers.get("retry-after", "") if isinstance(error, HfHubHTTPError) else ""
    return float(value) if value.isdigit() else None


def translate(error: Exception, repo: str, revision: str, endpoint: str) -> PensievedError:
    """The error to show for one of `NETWORK_ERRORS`."""
    if isinstance(error, GatedRepoError) or (
        isinstance(error, HfHubHTTPError)
        and not isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)
        and error.response.status_code in _FORBIDDEN
    ):
        return ModelUnavailableError(
            f"{repo} is gated or private, and this user may not read it.",
            hint=f"Accept its licence at {endpoint}/{repo} and {_LOGIN}.",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelUnavailableError(
            f"{repo} has no revision {revision!r}.",
            hint=f"Its branches and tags are at {endpoint}/{repo}/tree/main.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelUnavailableError(
            f"There is no model {repo} at {endpoint}, or it is private.",
            hint=f"Check the spelling; for a private model {_LOGIN}.",
        )
    if isinstance(error, OfflineModeIsEnabled):
        return SourceUnreachableError(
            f"{repo} is not in the Hub cache, and HF_HUB_OFFLINE forbids fetching it.",
            hint="Unset HF_HUB_OFFLINE.",
        )
    if is_transient(error):
        return SourceUnreachableError(
            f"{endpoint} does not answer as it should ({describe(error)}).",
            hint="Check the network; what was fetched is kept and continued.",
            retry_after=retry_after(error),
        )
    return ModelUnavailableError(f"{endpoint} refused {repo}: {describe(error)}.")


def describe(error: Exception) -> str:
    """The error in a few words."""
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
