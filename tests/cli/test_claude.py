"""`pensieved claude`: what Claude Code is started with. The program here is a stand-in that tells what it got."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from pensieved.cli.address import Address
from pensieved.cli.claude import (
    DUMMY_TOKEN,
    ELSEWHERE,
    Served,
    _Limits,
    _Model,
    claude_variables,
    shell_lines,
)
from pensieved.control.status import Phase
from support.front import END, running_front
from support.tiny_tokenizers import byte_level

PROGRAM = f"""\
#!{sys.executable}
import json, os, sys
print(json.dumps({{"args": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}}), flush=True)
if "wait" in sys.argv:
    import signal
    signal.pause()
sys.exit(7)
"""
KEY = "psv-3f9c1f0b"


@pytest.fixture(scope="module")
def front():
    with running_front(context_length=40960) as running:
        running.daemon.serving = replace(running.daemon.serving, aliases=("claude-*", "local"))
        yield running


@pytest.fixture
def command(tmp_path, front):
    """Runs the command with a stand-in for Claude Code on the PATH and nothing else in the environment."""
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)

    def run(*args, url=front.url, path=program.parent, **env):
        base = {"HOME": str(tmp_path), "PATH": str(path), "PENSIEVED_SERVER__PORT": url.rpartition(":")[2]}
        return subprocess.Popen(
            [sys.executable, "-m", "pensieved", "claude", *args],
            env=base | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def ended(process):
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_claude_code_gets_the_daemon_and_its_own_arguments(command, front):
    args = (
        "-p",
        "say 'hello' to $HOME",
        "--model",
        "opus",
        "--tools",
        "",
        "--print",
        "-c",
        "--",
        "--print-env",
    )
    process = command(*args)
    code, output, _ = ended(process)
    got = json.loads(output)
    assert code == 7  # its own exit code
    assert got["pid"] == process.pid  # it is the same process: signals and the terminal are its own
    assert got["args"] == [arg for arg in args if arg != "--"]
    env = got["env"]
    assert env["ANTHROPIC_BASE_URL"] == front.url
    assert env["ANTHROPIC_AUTH_TOKEN"] == DUMMY_TOKEN
    assert env["ANTHROPIC_MODEL"] == env["ANTHROPIC_SMALL_FAST_MODEL"] == "local"
    assert env["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "40960"
    assert env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "10240"


def test_signals_are_claude_codes(command):
    process = command("wait")
    assert json.loads(process.stdout.readline())["args"] == ["wait"]
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM


def test_credentials_for_the_cloud_stay_here(command):
    secret = dict.fromkeys(ELSEWHERE, "for-the-cloud")
    code, output, _ = ended(command(**secret))
    assert code == 7
    assert "for-the-cloud" not in output


def test_printed_variables_are_what_a_shell_takes(command, front):
    code, output, _ = ended(command("--print-env", ANTHROPIC_API_KEY="for-the-cloud"))
    assert code == 0
    script = f"ANTHROPIC_API_KEY=for-the-cloud\n{output}\nexec {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    seen = json.loads(subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout)
    assert seen["ANTHROPIC_BASE_URL"] == front.url
    assert seen["ANTHROPIC_CUSTOM_MODEL_OPTION_DESCRIPTION"] == "served by pensieved"
    assert "ANTHROPIC_API_KEY" not in seen


def test_the_configured_key_is_used_and_told_only_when_asked(command, tmp_path):
    with running_front(api_keys=(KEY,)) as locked:
        keys = tmp_path / "keys"
        keys.write_text(f"{KEY}\n")
        keys.chmod(0o600)
        given = {"url": locked.url, "PENSIEVED_SERVER__API_KEYS_FILE": str(keys)}
        code, output, errors = ended(command(**given))
        assert (code, json.loads(output)["env"]["ANTHROPIC_AUTH_TOKEN"]) == (7, KEY)
        assert KEY not in errors
        assert f"export ANTHROPIC_AUTH_TOKEN={KEY}\n" in ended(command("--print-env", **given))[1]
        code, output, errors = ended(command(url=locked.url))
        assert code == 3
        assert "API key" in errors


def test_another_daemon_can_be_named(command, front):
    code, output, _ = ended(command("--base-url", f"{front.url}/", "-p", "x", url="http://127.0.0.1:1"))
    got = json.loads(output)
    assert (code, got["args"], got["env"]["ANTHROPIC_BASE_URL"]) == (7, ["-p", "x"], front.url)


def test_without_claude_code_it_says_how_to_install_it(command, tmp_path):
    code, output, errors = ended(command(path=tmp_path))
    assert (code, output) == (1, "")
    assert "npm install -g @anthropic-ai/claude-code" in errors
    assert ended(command("--print-env", path=tmp_path))[0] == 0


def test_without_a_daemon_it_says_how_to_start_one(command):
    code, output, errors = ended(command(url="http://127.0.0.1:1"))
    assert (code, output) == (3, "")
    assert "pensieved run" in errors


def test_a_daemon_that_is_not_ready(command, front):
    front.daemon.status.enter(Phase.DOWNLOADING)
    try:
        code, output, errors = ended(command())
    finally:
        front.daemon.status.enter(Phase.READY)
    assert (code, output) == (3, "")
    assert "downloading" in errors


def served(context_length, aliases=("local",)):
    return Served(_Model("org/model", aliases), _Limits(context_length))


def variables(context_length=131072, shell=None, **kwargs):
    return claude_variables(Address("http://127.0.0.1:8765"), served(context_length, **kwargs), shell or {})


def test_the_models_own_name_where_nothing_else_is_answered_to():
    assert variables(aliases=("claude-*",))["CLAUDE_CODE_SUBAGENT_MODEL"] == "org/model"


@pytest.mark.parametrize(
    ("context_length", "answer", "compacts"),
    [
        (512, 128, False),
        (8192, 2048, False),
        (40960, 10240, False),
        (65536, 16384, True),
        (262144, 32000, True),
    ],
)
def test_sizes_follow_the_context(context_length, answer, compacts):
    got = variables(context_length)
    assert got["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(context_length)
    assert got["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == str(answer)
    assert ("DISABLE_AUTO_COMPACT" in got) is not compacts


def test_what_the_user_says_about_limits_stays():
    shell = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "99", "API_TIMEOUT_MS": "5", "ANTHROPIC_MODEL": "claude-opus"}
    got = variables(shell=shell)
    assert (got["CLAUDE_CODE_MAX_OUTPUT_TOKENS"], got["API_TIMEOUT_MS"]) == ("99", "5")
    assert got["ANTHROPIC_MODEL"] == "local"


def test_a_proxy_is_not_asked_for_loopback():
    assert "NO_PROXY" not in variables()
    got = variables(shell={"https_proxy": "http://proxy:3128", "NO_PROXY": "intern,127.0.0.1"})
    assert got["NO_PROXY"] == got["no_proxy"] == "intern,127.0.0.1,localhost,::1"


def test_values_are_quoted_for_the_shell():
    assert shell_lines({"A": "it's; rm -rf"}, {}) == ["""export A='it'"'"'s; rm -rf'"""]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("claude") is None,
    reason="Claude Code is not installed: npm install -g @anthropic-ai/claude-code",
)
def test_the_real_claude_code_prints_the_answer_of_one_request(tmp_path):
    with running_front(f"Hello there.{END}", context_length=65536) as front:
        front.daemon.serving = replace(front.daemon.serving, aliases=("local",))
        env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "dumb", "IS_SANDBOX": "1"}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pensieved",
                "claude",
                "--base-url",
                front.url,
                "-p",
                "say hello",
                "--tools",
                "Bash",
            ],
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "Hello there.\n"), done.stderr
        (submitted,) = front.engine.submitted
        assert submitted.max_tokens <= 16384
        prompt = byte_level().decode(list(submitted.prompt), skip_special_tokens=False)
    assert "say hello" in prompt
    assert "x-anthropic-billing-header" not in prompt
