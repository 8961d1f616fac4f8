from __future__ import annotations

import re

import pytest

from pensieved.errors import ServiceError
from pensieved.service.lint import check, problems

GOOD = {"Label": "org.example.x", "ProgramArguments": ["/bin/x"]}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"KeepAlive": True},
        {"KeepAlive": {"SuccessfulExit": False, "PathState": {"/x": True}, "OtherJobEnabled": {"y": False}}},
        {"Sockets": {"http": {"SockServiceName": "8765", "SockNodeName": "127.0.0.1", "SockFamily": "IPv4"}}},
        {
            "Sockets": {
                "http": [
                    {"SockServiceName": 80},
                    {"SockPathName": "/x", "SockPathMode": 384, "Bonjour": ["a"]},
                ]
            }
        },
        {"StartCalendarInterval": [{"Hour": 3, "Minute": 0}]},
        {"StartCalendarInterval": {"Weekday": 1}},
        {"LimitLoadToSessionType": ["Aqua", "Background"], "AssociatedBundleIdentifiers": "org.x"},
        {"Umask": 18, "Nice": -5, "SoftResourceLimits": {"NumberOfFiles": 4096}},
        {"Umask": "022", "MachServices": {"org.x": True, "org.y": {"ResetAtClose": True}}},
        {"inetdCompatibility": {"Wait": True}, "LaunchEvents": {"com.apple.iokit.matching": {"x": {"y": 1}}}},
        {"LimitLoadToHardware": {"machine": ["arm64"]}},
        {
            "EnvironmentVariables": {
                "PATH": "/bin",
                "HF_TOKEN_PATH": "/x",
                "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            }
        },
        {
            "EnvironmentVariables": {
                "HTTPS_PROXY": "http://proxy:3128",
                "PENSIEVED_GENERATION__MAX_TOKENS": "10",
            }
        },
    ],
)
def test_right(keys):
    assert problems({**GOOD, **keys}) == []


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"ExitTimeout": 5}, r"ExitTimeout is no key of launchd's \(did you mean ExitTimeOut\?\)"),
        ({"runatload": True}, "did you mean RunAtLoad"),
        ({"OnDemand": False}, r"OnDemand is dead.*KeepAlive"),
        ({"TimeOut": 5}, "TimeOut is dead"),
        ({"ServiceIPC": True}, "ServiceIPC is dead"),
        ({"RunAtLoad": "yes"}, "RunAtLoad must be a boolean, not a string"),
        ({"ThrottleInterval": True}, "ThrottleInterval must be an integer, not a boolean"),
        ({"ExitTimeOut": -1}, "must not be negative"),
        ({"ProcessType": "interactive"}, "one of Background, Standard, Adaptive, Interactive"),
        ({"KeepAlive": {"SuccesfulExit": False}}, r"KeepAlive\.SuccesfulExit is no key"),
        ({"KeepAlive": {"SuccessfulExit": 0}}, r"KeepAlive\.SuccessfulExit must be a boolean"),
        ({"EnvironmentVariables": {"PORT": 8765}}, r"EnvironmentVariables\.PORT must be a string"),
        ({"StandardOutPath": "logs/out"}, "must be an absolute path"),
        ({"WorkingDirectory": "~/x"}, "absolute path"),
        ({"WorkingDirectory": "~/x"}, "neither ~ nor"),
        ({"EnvironmentVariables": {"PATH": "/bin:~/bin"}}, "neither ~ nor"),
        ({"ProgramArguments": ["/bin/x", "$HOME/y"]}, "neither ~ nor"),
        ({"ProgramArguments": ["python3", "-m", "x"]}, r"ProgramArguments\[0\] must be an absolute path"),
        ({"ProgramArguments": ["/bin/x", 5]}, r"ProgramArguments\[1\] must be a string"),
        ({"ProgramArguments": []}, "ProgramArguments"),
        ({"EnvironmentVariables": {"HF_TOKEN": "x"}}, "HF_TOKEN is a secret"),
        ({"EnvironmentVariables": {"FOO": "hf_abcdefghijklmnopqrst"}}, "FOO is a secret"),
        ({"EnvironmentVariables": {"HTTPS_PROXY": "http://me:pw@proxy:3128"}}, "HTTPS_PROXY is a secret"),
        ({"ProgramArguments": ["/bin/x", "--token=sk-abcdefghijklmnop"]}, "holds a secret"),
        ({"Sockets": {"http": {"SockPort": 80}}}, r"Sockets\.http\.SockPort is no key"),
        ({"SoftResourceLimits": {"Files": 10}}, r"SoftResourceLimits\.Files is no key"),
    ],
)
def test_wrong(keys, says):
    assert any(re.search(says, problem) for problem in problems({**GOOD, **keys})), problems({**GOOD, **keys})


def test_everything_wrong_is_named_at_once():
    with pytest.raises(ServiceError) as caught:
        check({"RunAtLoad": 1})
    assert "Label is missing" in caught.value.what
    assert "ProgramArguments is missing" in caught.value.what
    assert "RunAtLoad" in caught.value.what
