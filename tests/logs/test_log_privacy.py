"""A traceback in the log tells where, not what about: no local variables, which hold prompts."""

import sys

import pytest

from pensieved.logs import _chain


@pytest.mark.parametrize("console", [True, False])
def test_a_traceback_shows_no_variables(console):
    def fail(prompt):
        raise KeyError(len(prompt))

    question = "a secret question"
    try:
        fail(question)
    except KeyError:
        text = {"event": "request failed", "level": "error", "exc_info": sys.exc_info()}
    for processor in _chain(console=console, colors=False):
        text = processor(None, "error", text)
    assert "KeyError: 17" in text
    assert "secret" not in text
