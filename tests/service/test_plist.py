from __future__ import annotations

import plistlib
import stat
import sys
from pathlib import Path

import pytest

from pensieved.errors import ServiceError, UsageError
from pensieved.service import lint, plist
from pensieved.service.agent import find_agent, installed_plist
from pensieved.settings.paths import DEFAULT_LABEL

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PENSIEVED_LABEL": DEFAULT_LABEL}


def build(agent, **changes):
    return plist.build(agent, ENVIRONMENT, **{"drain_timeout": 30.0, "headless": False, **changes})


def test_the_agent_as_launchd_gets_it(home):
    agent = find_agent()
    built = build(agent)
    assert built["Label"] == "org.pensieved.daemon"
    assert built["ProgramArguments"] == [
        sys.executable,
        "-m",
        "pensieved",
        "run",
        "--config",
        str(agent.config),
    ]
    assert built["KeepAlive"] == {"SuccessfulExit": False}
    assert built["RunAtLoad"] is True
    assert built["ExitTimeOut"] == 40
    assert built["ProcessType"] == "Interactive"
    assert built["EnvironmentVariables"] == ENVIRONMENT
    assert "LimitLoadToSessionType" not in built
    assert not any("@" in str(value) for value in built.values())


def test_headless_agents_load_without_a_graphical_session(home):
    assert build(find_agent(), headless=True)["LimitLoadToSessionType"] == "Background"


def test_the_interpreter_is_the_environments_own_path(home, monkeypatch, tmp_path):
    venv = tmp_path / "python"
    venv.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(venv))
    assert build(find_agent())["ProgramArguments"][0] == str(venv)


def test_written_in_one_step_with_mode_644(home):
    agent = find_agent()
    content = plist.serialize(build(agent))
    plist.write(agent, content)
    assert agent.plist == home / "Library/LaunchAgents/org.pensieved.daemon.plist"
    assert stat.S_IMODE(agent.plist.stat().st_mode) == 0o644
    assert plistlib.loads(agent.plist.read_bytes()) == build(agent)
    assert list(agent.plist.parent.iterdir()) == [agent.plist]
    assert plist.serialize(build(agent)) == content


def test_an_unwritable_folder_is_one_sentence(home):
    (home / "Library").write_text("")
    with pytest.raises(ServiceError, match="cannot be written"):
        plist.write(find_agent(), b"")


def test_what_differs_from_the_installed_one_is_named(home):
    agent = find_agent()
    assert "Label" in plist.differing(agent, build(agent))
    plist.write(agent, plist.serialize(build(agent)))
    assert plist.differing(agent, build(agent)) == []
    by_hand = {**build(agent), "Nice": 5, "EnvironmentVariables": {**ENVIRONMENT, "PATH": "/bin"}}
    agent.plist.write_bytes(plistlib.dumps(by_hand))
    assert plist.differing(agent, build(agent)) == ["EnvironmentVariables.PATH", "Nice"]


def test_a_config_path_that_launchd_would_not_expand_is_refused(home):
    with pytest.raises(ServiceError, match=r"neither ~ nor \$"):
        build(find_agent(config=home / "$HOME" / "x.toml"))


def test_agents_find_their_own_files(home):
    first, second = find_agent(), find_agent("org.example.second")
    assert first.config.name == "pensieved.toml"
    assert second.config.name == "org.example.second.toml"
    assert {first.log, first.output, first.plist}.isdisjoint({second.log, second.output, second.plist})
    assert first.option == ""
    assert second.option == " --label org.example.second"


def test_an_installed_agent_keeps_the_config_it_was_installed_with(home, tmp_path):
    agent = find_agent(config=tmp_path / "mine.toml")
    plist.write(agent, plist.serialize(build(agent)))
    assert find_agent().config == tmp_path / "mine.toml"
    agent.plist.write_text("broken")
    assert installed_plist(agent) is None
    assert find_agent().config != tmp_path / "mine.toml"


@pytest.mark.parametrize("label", ["", "a b", "../x", "x/y", ".x", "x" * 200])
def test_labels_that_cannot_be(home, label):
    with pytest.raises(UsageError, match="launchd label"):
        find_agent(label)


def test_the_template_is_right_but_for_its_placeholders():
    template = plist.template()
    filled = {
        key: value
        for key, value in template.items()
        if not (isinstance(value, str) and value.startswith("@"))
    }
    wrong = [problem for problem in lint.problems(filled) if "missing" not in problem]
    assert wrong == []


def test_the_package_carries_the_very_file_in_packaging():
    packaged = Path(plist.__file__).with_name("agent.plist")
    assert (
        packaged.read_bytes()
        == (Path(__file__).parents[2] / "packaging/launchd/org.pensieved.daemon.plist").read_bytes()
    )
