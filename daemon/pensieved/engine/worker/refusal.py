"""Why a request ends alone, in the engine."""

from __future__ import annotations


class RefusedRequestError(ValueError):
    """A request that the model cannot run; the engine is well."""
