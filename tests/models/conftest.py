"""A Hub on loopback and a cache of its own for each test."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from pensieved.models.preparation import PreparedModel, PrepareRequest, find_prepared, prepare
from pensieved.models.source import parse_source
from pensieved.models.wire import Retries
from support.hub import Hub

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.models.progress import Progress


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub, and a Hub cache in tmp_path/hf."""
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@dataclass
class Preparing:
    """Prepares models the way the daemon does, and remembers what was said."""

    cache: Path
    notes: list[str] = field(default_factory=list)
    seen: list[Progress] = field(default_factory=list)

    def request(self, url: str, **changes) -> PrepareRequest:
        revision = changes.pop("revision", None)
        quick = Retries(attempts=4, first_delay=0.02, longest_delay=0.1)
        base = PrepareRequest(
            source=parse_source(url, revision), cache_dir=self.cache, device="cpu", retries=quick
        )
        return replace(base, **changes)

    def __call__(self, url: str, **changes) -> PreparedModel:
        return prepare(self.request(url, **changes), self.seen.append, threading.Event(), self.notes.append)

    def find(self, url: str, **changes) -> PreparedModel | None:
        return find_prepared(self.request(url, **changes))

    def said(self, text: str) -> bool:
        return any(text in note for note in self.notes)


@pytest.fixture
def preparing(tmp_path):
    return Preparing(tmp_path / "cache")
