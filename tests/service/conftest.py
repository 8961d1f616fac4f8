"""A launchd of its own for each test, and a home to install into."""

from __future__ import annotations

import json
import plistlib
import sys
from pathlib import Path

import pytest

from support.daemon import wait_for
from support.launchd import Launchd

OBEDIENT = Path(__file__).parents[1] / "support" / "obedient.py"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, for this process and its children."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def launchd(tmp_path, home, monkeypatch):
    """The stand-in; nothing that it started remains after the test."""
    started = Launchd(tmp_path / "launchd", home)
    for name, value in started.env.items():
        monkeypatch.setenv(name, value)
    yield started
    started.close()


class Obedient:
    """A plist for the obedient program, and what its starts recorded."""

    def __init__(self, folder: Path, label: str) -> None:
        self.record = folder / f"{label}.jsonl"
        self.output = folder / f"{label}.output"
        self.path = folder / f"{label}.plist"
        self.label = label

    def plist(self, *words: str, **keys) -> Path:
        """Write it; `keys` come on top of what every job has."""
        content = {
            "Label": self.label,
            "ProgramArguments": [sys.executable, str(OBEDIENT), str(self.record), *words],
            "RunAtLoad": True,
            "StandardOutPath": str(self.output),
            **keys,
        }
        self.path.write_bytes(plistlib.dumps(content))
        self.path.chmod(0o644)
        return self.path

    @property
    def starts(self) -> list[dict]:
        lines = self.record.read_text().splitlines(keepends=True) if self.record.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # else it is being written

    def wait_starts(self, count: int) -> dict:
        """The newest of at least `count` starts."""
        wait_for(lambda: len(self.starts) >= count, 60, f"{count} starts")
        return self.starts[-1]


@pytest.fixture
def job(tmp_path):
    return Obedient(tmp_path, "org.example.job")
