"""What the settings leave to the machine."""

import pytest

from pensieved.control.limits import safety_margin
from pensieved.control.residence import Target
from pensieved.settings.load import load_settings


@pytest.mark.parametrize(("wanted", "margin"), [("auto", None), ("3GiB", 3 * 2**30), (0, 0)])
def test_the_margin_is_as_set_or_left_to_the_engine_which_knows_its_device(wanted, margin):
    settings = load_settings({"memory": {"safety_margin": wanted}})
    assert safety_margin(settings.memory) == margin


def test_another_margin_is_another_engine():
    assert Target.of(load_settings({"memory": {"safety_margin": "1GiB"}})) != Target.of(load_settings({}))
