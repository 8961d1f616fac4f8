from __future__ import annotations

from pensieved.service.environment import agent_environment
from pensieved.service.lint import problems

SHELL = {
    "PATH": "/opt/homebrew/bin:bin:~/bin:/usr/bin:/opt/homebrew/bin:$HOME/x",
    "HOME": "/Users/me",
    "EDITOR": "vi",
    "HF_HOME": "/models/hf",
    "HF_ENDPOINT": "https://mirror.example",
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz",
    "HUGGING_FACE_HUB_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz",
    "HF_TOKEN_PATH": "/Users/me/token",
    "HTTPS_PROXY": "http://proxy:3128",
    "http_proxy": "http://me:secret@proxy:3128",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "PENSIEVED_CONFIG": "/elsewhere.toml",
    "PENSIEVED_SERVER__PORT": "9",
    "PENSIEVED_SERVER__API_KEYS": '["abcdefgh"]',
    "PENSIEVED_LOGGING__LEVEL": "debug",
    "AWS_SECRET_ACCESS_KEY": "x",
}


def test_what_matters_is_carried_and_secrets_are_not():
    found = agent_environment(SHELL, "org.example.x", overruled={"PENSIEVED_SERVER__PORT"})
    assert found.variables == {
        "PATH": "/opt/homebrew/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "PENSIEVED_LABEL": "org.example.x",
        "PYTHONSAFEPATH": "1",
        "HF_HOME": "/models/hf",
        "HF_ENDPOINT": "https://mirror.example",
        "HF_TOKEN_PATH": "/Users/me/token",
        "HTTPS_PROXY": "http://proxy:3128",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "PENSIEVED_LOGGING__LEVEL": "debug",
    }
    assert set(found.withheld) == {"HF_TOKEN", "http_proxy", "PENSIEVED_SERVER__API_KEYS"}


def test_the_result_passes_the_lint():
    variables = agent_environment(SHELL, "org.example.x").variables
    assert problems({"Label": "x", "ProgramArguments": ["/x"], "EnvironmentVariables": variables}) == []


def test_an_empty_shell_still_has_the_systems_path():
    assert agent_environment({}, "x").variables["PATH"] == "/usr/bin:/bin:/usr/sbin:/sbin"
