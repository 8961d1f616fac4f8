"""How changed keys take effect: complete, and true of what is compared."""

from __future__ import annotations

from pensieved.settings.effect import EFFECTS, Effect, changes, in_force, keys
from pensieved.settings.load import load_settings

BEFORE = {"server": {"port": 8000, "max_queued": 3}, "model": {"url": "org/a"}}
AFTER = {"server": {"port": 9000, "max_queued": 4}, "model": {"url": "org/b"}}


def test_every_key_says_how_it_takes_effect():
    assert list(EFFECTS) == list(keys())


def test_changes_name_each_key_that_differs_and_no_other():
    found = changes(load_settings(BEFORE), load_settings(AFTER))
    assert [(change.key, change.effect) for change in found] == [
        ("model.url", Effect.SWAP),
        ("server.port", Effect.RESTART),
        ("server.max_queued", Effect.LIVE),
    ]
    assert changes(load_settings(BEFORE), load_settings(BEFORE)) == ()


def test_in_force_is_what_is_wanted_but_for_what_needs_a_restart():
    now = in_force(load_settings(BEFORE), load_settings(AFTER))
    assert (now.model.url, now.server.max_queued, now.server.port) == ("org/b", 4, 8000)
