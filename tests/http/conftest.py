"""Fixtures for the HTTP room's tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """The key of thinking blocks belongs to the test run, not to whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setattr("pensieved.http.answering.state_dir", lambda: folder)
        yield folder
