"""Fixtures for all rooms."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

from pensieved.models.preparation import PreparedModel, PrepareRequest, find_prepared, prepare
from pensieved.models.source import parse_source
from pensieved.settings.schema import STARTER_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says how busy the machine is; what hangs is pytest-timeout's to find. Examples are the same
# in each run, so that a change fails for what it changed: `pytest --hypothesis-profile searching` draws new ones.
for _name, _steady in (("steady", True), ("searching", False)):
    settings.register_profile(
        _name, deadline=None, derandomize=_steady, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """No test inherits the level or the sinks of one that ran a command in this process."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def starter_cache(request: pytest.FixtureRequest, starter_model: PreparedModel) -> Path:
    """The cache folder that holds the prepared starter model."""
    return _cache(request)


@pytest.fixture(scope="session")
def starter_model(request: pytest.FixtureRequest) -> PreparedModel:
    """The starter model, fetched and prepared once; it stays in $PENSIEVED_TEST_CACHE or pytest's own cache."""
    wanted = PrepareRequest(source=parse_source(STARTER_MODEL), cache_dir=_cache(request))
    found = find_prepared(wanted)
    return found if found is not None else prepare(wanted, lambda _: None, threading.Event())


def _cache(request: pytest.FixtureRequest) -> Path:
    named = os.environ.get("PENSIEVED_TEST_CACHE")
    return Path(named) if named else Path(request.config.cache.mkdir("pensieved-models"))
