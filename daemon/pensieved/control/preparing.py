"""The wanted model into the cache.

Imported by the reconcile thread, when the port is up: nothing before that needs to know of caches and preparers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.models.preparation import (
    PreparationCancelledError,
    PreparedModel,
    PrepareRequest,
    find_prepared,
    prepare,
)
from pensieved.models.source import parse_source

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pensieved.models.progress import Progress
    from pensieved.settings import Settings


def prepare_request(settings: Settings) -> PrepareRequest:
    """What is to lie in the cache."""
    model = settings.model
    return PrepareRequest(
        source=parse_source(model.url, model.revision),
        quantization=model.quantization,
        device=settings.engine.device,
        cache_dir=settings.cache.dir,
        trust_remote_code=model.trust_remote_code,
        verify=settings.cache.verify,
    )


def prepared_model(
    settings: Settings, on_progress: Callable[[str, Progress], None], cancel: threading.Event
) -> PreparedModel | None:
    """The model as found or made; None where `cancel` ended that. `on_progress` is given its name, too.

    Raises:
        PensievedError: it cannot be prepared.
    """
    request = prepare_request(settings)
    # To read all of a model is the preparer's: it says how far it is, can be stopped, and has the faster hash.
    found = find_prepared(request) if request.verify == "quick" else None
    if found is not None:
        return found
    try:
        return prepare(request, lambda progress: on_progress(request.source.name, progress), cancel)
    except PreparationCancelledError:
        return None
