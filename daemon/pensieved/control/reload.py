"""Reading the configuration again, and saying key by key what came of it.

A configuration that is wrong changes nothing: the last good one stays in force, and the report says what is wrong
with the new one until it is mended.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import msgspec
import structlog

from pensieved.errors import PensievedError
from pensieved.settings.effect import Effect, changes, in_force

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.settings.origin import ConfigOrigin
    from pensieved.settings.schema import Settings

    Listener = Callable[[Settings], None]

log = structlog.get_logger()


class AppliedKey(msgspec.Struct, frozen=True):
    """A key that changed, and how that takes effect. Values are not told: some are secrets."""

    key: str
    effect: Effect


class ConfigReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force, and what the latest look at the configuration brought. Times in seconds since the epoch.

    Attributes:
        path: the TOML, if there is one.
        read_at: when the configuration was read, or refused, last.
        changed_at: when a reading last changed something.
        changes: what that reading changed.
        waiting: keys that wait for a restart.
        error: why it was refused; the one before is in force.
        hint: what to do then.
    """

    path: str | None
    read_at: float
    changed_at: float | None = None
    changes: tuple[AppliedKey, ...] = ()
    waiting: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None


class Configuration:
    """The settings in force.

    Args:
        settings: as read at the start.
        origin: where to read them again; None: they never change.
        check: raises what forbids settings that are valid by themselves.
    """

    def __init__(
        self,
        settings: Settings,
        origin: ConfigOrigin | None = None,
        check: Listener = lambda _: None,
    ) -> None:
        self.current = settings
        self._wanted = settings
        self._origin = origin
        self._check = check
        self._listeners: list[Listener] = []
        self._reading = threading.Lock()
        self.report = ConfigReport(path=self._path(), read_at=time.time())

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with the settings in force after each reading that was not refused."""
        self._listeners.append(listener)

    def reload(self) -> ConfigReport:
        """Read the configuration again and bring into force what can be; never raises for what is wrong with it."""
        with self._reading:
            try:
                wanted = self._origin.load() if self._origin else self.current
                now = in_force(self.current, wanted)
                self._check(wanted)
                self._check(now)
            except PensievedError as error:
                self._refuse(error)
            else:
                self._bring(wanted, now)
            return self.report

    def _refuse(self, error: PensievedError) -> None:
        log.error("configuration.refused", reason=error.what, hint=error.hint)
        self.report = msgspec.structs.replace(
            self.report,
            path=self._path(),
            read_at=time.time(),
            error=error.what,
            hint=error.hint or "The configuration before it stays in force.",
        )

    def _bring(self, wanted: Settings, now: Settings) -> None:
        fresh = changes(self._wanted, wanted)
        self.current, self._wanted = now, wanted
        told = time.time()
        by_effect = {effect.name.lower(): [c.key for c in fresh if c.effect is effect] for effect in Effect}
        log.info("configuration.read", **{name: keys for name, keys in by_effect.items() if keys})
        for listener in self._listeners:
            listener(now)
        self.report = ConfigReport(  # last: who reads it takes what it says for done, or at least for begun
            path=self._path(),
            read_at=told,
            changed_at=told if fresh else self.report.changed_at,
            changes=tuple(AppliedKey(c.key, c.effect) for c in fresh) or self.report.changes,
            waiting=tuple(c.key for c in changes(now, wanted)),
        )

    def _path(self) -> str | None:
        return str(self._origin.path) if self._origin and self._origin.path else None
