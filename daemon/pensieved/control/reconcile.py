"""One loop that makes the world as the settings say: model prepared, loaded, serving.

Whoever wants something else says so (`want`); the loop's thread does the rest, one attempt after another. Errors
carry their retry policy by type: a temporary one is tried again after a backoff, a permanent one waits for a change.
Either way the daemon stays up and says so: launchd would only start the same failure again. As long as some model
serves, a failure makes it `degraded`, not `failed`: what answers goes on answering.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from pensieved.backoff import Backoff
from pensieved.control.residence import Target
from pensieved.control.status import Phase
from pensieved.control.succession import Trouble
from pensieved.errors import PensievedError, TemporaryError

if TYPE_CHECKING:
    from pensieved.control.succession import Succession
    from pensieved.models.preparation import PreparedModel
    from pensieved.models.progress import Progress
    from pensieved.settings import Settings

log = structlog.get_logger()


class Reconciler:
    """Owns the reconcile thread.

    Args:
        settings: what is wanted at first.
        succession: the models in memory, which this thread changes.
    """

    def __init__(self, settings: Settings, succession: Succession) -> None:
        self._succession = succession
        self._backoff = Backoff()
        self._retry_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._changed = threading.Condition()  # guards what follows
        self._wanted = settings
        self._wish = 1  # counts what was wanted
        self._done = 0  # the latest wish that was acted upon, whatever came of it
        self._stopping = False
        self._cancel = threading.Event()  # ends the preparation under way

    @property
    def settled(self) -> bool:
        """Whether the latest wish was acted upon; what came of it, the status says."""
        with self._changed:
            return self._done == self._wish

    def start(self) -> None:
        """Begin to reconcile, in a thread of its own."""
        self._thread.start()

    def want(self, settings: Settings) -> None:
        """Reconcile with `settings` from now on; whatever failed before is tried again."""
        with self._changed:
            if Target.of(settings) != Target.of(self._wanted):
                self._cancel.set()
            self._wanted = settings
            self._wish += 1
            self._changed.notify_all()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop reconciling, and all engines; a preparation under way is ended and resumes at the next start."""
        with self._changed:
            self._stopping = True
            self._cancel.set()
            self._changed.notify_all()
        self._succession.end()
        if self._thread.is_alive():
            self._thread.join(timeout)
            self._succession.end()  # what was about to begin meanwhile

    def _run(self) -> None:
        while (next_wish := self._next()) is not None:
            settings, wish = next_wish
            self._attempt(settings)
            with self._changed:
                self._done = wish

    def _next(self) -> tuple[Settings, int] | None:
        """Wait for another wish, or for the time to try again; None at the end."""
        with self._changed:
            while not self._stopping and self._wish == self._done:
                delay = None if self._retry_at is None else self._retry_at - time.time()
                if delay is not None and delay <= 0:
                    break
                self._changed.wait(delay)
            if self._wish != self._done:
                self._backoff.reset()
            self._cancel = threading.Event()
            return None if self._stopping else (self._wanted, self._wish)

    def _attempt(self, settings: Settings) -> None:
        try:
            if not self._succession.keep(settings):
                prepared = self._prepared(settings)
                if prepared is None:  # something else is wanted by now
                    return
                self._succession.install(prepared, settings)
        except TemporaryError as error:
            self._fail(error, max(self._backoff.next(), error.retry_after or 0.0))
        except PensievedError as error:
            self._fail(error)
        except Exception as error:  # the loop that keeps the daemon honest must outlive any bug
            log.exception("reconcile failed")
            bug = TemporaryError(f"Internal error: {error!r}.", hint="Please report it with the log.")
            self._fail(bug, self._backoff.next())
        else:
            self._retry_at = None
            self._backoff.reset()
            self._succession.settle(None)

    def _fail(self, error: PensievedError, delay: float | None = None) -> None:
        """Say why it is not as wanted; without `delay` it waits for a change."""
        if self._stopping:
            return
        self._retry_at = None if delay is None else time.time() + delay
        log.error(
            "cannot apply" if self._succession.serving else "cannot serve",
            reason=error.what,
            hint=error.hint,
            retried=delay is not None,
        )
        self._succession.settle(Trouble(error, self._retry_at))

    def _prepared(self, settings: Settings) -> PreparedModel | None:
        from pensieved.control.preparing import prepared_model  # noqa: PLC0415  the port is up before this is imported

        return prepared_model(settings, self._on_progress, self._cancel)

    def _on_progress(self, model: str, progress: Progress) -> None:
        self._succession.say(model, Phase(progress.stage.value), progress.detail, progress)
