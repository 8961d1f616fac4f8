"""What changing a key does to a running daemon, and the differences between two configurations.

The table is complete by test: a new key must say here how it takes effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from pensieved.settings.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel


class Effect(StrEnum):
    """How a changed key comes into force."""

    LIVE = "live"  # from the next request, line or check on
    SWAP = "swap"  # another engine process, loaded while the old one serves where memory allows
    RESTART = "restart"  # only a new daemon process knows it

    @property
    def words(self) -> str:
        """For people."""
        return {"live": "applied live", "swap": "engine swapped", "restart": "needs restart"}[self.value]


EFFECTS: dict[str, Effect] = {
    "model.url": Effect.SWAP,
    "model.revision": Effect.SWAP,
    "model.quantization": Effect.SWAP,
    "model.aliases": Effect.LIVE,
    "model.context_length": Effect.LIVE,
    "model.trust_remote_code": Effect.SWAP,
    "server.host": Effect.RESTART,
    "server.port": Effect.RESTART,
    "server.activation": Effect.RESTART,
    "server.api_keys": Effect.LIVE,
    "server.api_keys_file": Effect.LIVE,
    "server.allowed_hosts": Effect.LIVE,
    "server.allowed_origins": Effect.LIVE,
    "server.max_concurrent": Effect.SWAP,
    "server.max_queued": Effect.LIVE,
    "server.request_timeout": Effect.LIVE,
    "server.max_body": Effect.RESTART,
    "server.drain_timeout": Effect.LIVE,
    "generation.temperature": Effect.LIVE,
    "generation.top_p": Effect.LIVE,
    "generation.top_k": Effect.LIVE,
    "generation.min_p": Effect.LIVE,
    "generation.max_tokens": Effect.LIVE,
    "prompt.drop_lines": Effect.LIVE,
    "cache.dir": Effect.RESTART,
    "cache.verify": Effect.LIVE,
    "prompt_cache.memory": Effect.SWAP,
    "prompt_cache.disk": Effect.SWAP,
    "prompt_cache.ttl": Effect.SWAP,
    "prompt_cache.explain": Effect.LIVE,
    "memory.safety_margin": Effect.SWAP,
    "engine.device": Effect.SWAP,
    "engine.prefill_chunk": Effect.SWAP,
    "engine.speculation": Effect.SWAP,
    "engine.idle_unload": Effect.LIVE,
    "engine.hang_timeout": Effect.LIVE,
    "engine.load_timeout": Effect.LIVE,
    "engine.max_restarts": Effect.LIVE,
    "engine.restart_window": Effect.LIVE,
    "logging.level": Effect.LIVE,
    "logging.format": Effect.LIVE,
    "logging.file": Effect.LIVE,
    "logging.max_size": Effect.LIVE,
    "logging.keep": Effect.LIVE,
}


@dataclass(frozen=True)
class KeyChange:
    """One key that differs. Values are left out: some are secrets."""

    key: str
    effect: Effect


def changes(old: Settings, new: Settings) -> tuple[KeyChange, ...]:
    """Every key whose value differs, in the schema's order."""
    return tuple(KeyChange(key, EFFECTS[key]) for key in keys() if value_of(old, key) != value_of(new, key))


def in_force(running: Settings, wanted: Settings) -> Settings:
    """`wanted`, but with `running`'s values where only a restart would bring the new ones."""
    kept: dict[str, dict[str, object]] = {}
    for change in changes(running, wanted):
        if change.effect is Effect.RESTART:
            section, name = change.key.split(".")
            kept.setdefault(section, {})[name] = value_of(running, change.key)
    sections = {name: getattr(wanted, name).model_copy(update=values) for name, values in kept.items()}
    return wanted.model_copy(update=sections)


def keys() -> Iterator[str]:
    """Every dotted key of the configuration."""
    for section, field in Settings.model_fields.items():
        table = cast("type[BaseModel]", field.annotation)  # every field of Settings is a section
        yield from (f"{section}.{name}" for name in table.model_fields)


def value_of(settings: Settings, key: str) -> object:
    """The value of a dotted key."""
    section, name = key.split(".")
    return getattr(getattr(settings, section), name)
