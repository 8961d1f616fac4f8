"""Claude Code itself, from npm: it prints an answer, and it runs a tool and reads the result.

`PENSIEVED_TEST_CLAUDE` names its executable where it is installed already; else it is fetched once, into pytest's cache.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.front import wait_until
from support.modelled import modelled_front, prompt_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {
    "TERM": "dumb",
    "IS_SANDBOX": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",  # a broken stream must not look fine
    "ANTHROPIC_API_KEY": "dummy",
}


@pytest.fixture(scope="module")
def claude(request):
    named = os.environ.get("PENSIEVED_TEST_CLAUDE")
    if named:
        return Path(named)
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, so Claude Code cannot be fetched")
    folder = Path(request.config.cache.mkdir("claude-code"))
    program = folder / "node_modules" / ".bin" / "claude"
    if not program.exists():
        fetched = subprocess.run(
            [npm, "install", "--prefix", folder, "--no-audit", "--no-fund", "@anthropic-ai/claude-code"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if fetched.returncode != 0:
            pytest.skip(f"npm cannot fetch Claude Code: {fetched.stderr.strip()[-200:]}")
    return program


def posts(logs):
    return [line for line in logs if line["event"] == "request" and line["method"] == "POST"]


def run(claude, front, folder, *arguments):
    """What it prints, and the log lines of what it asked."""
    environment = SETTINGS | {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "ANTHROPIC_BASE_URL": front.url,
    }
    (folder / "home").mkdir()
    (folder / "empty").mkdir()
    with capture_logs() as logs:
        done = subprocess.run(
            [claude, "-p", *arguments, "--model", "claude-local"],
            env=environment,
            cwd=folder / "empty",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        # A line is written after the last byte, which its reader may be ahead of.
        wait_until(lambda: len(posts(logs)) >= len(front.engine.submitted))
    assert done.returncode == 0, done.stderr + done.stdout
    asked = posts(logs)
    assert all(line["status"] == 200 and line["stream"] for line in asked)
    return done.stdout.strip(), asked


def test_it_prints_the_answer(claude, tmp_path):
    with modelled_front("Hello from here. 🙂", context_length=200_000, tokens_per_step=8) as front:
        printed, asked = run(claude, front, tmp_path, "say hello", "--tools", "")
        assert printed == "Hello from here. 🙂"
        assert len(asked) == 1
        assert asked[0]["dropped_lines"] >= 1
        assert "x-anthropic-billing-header" not in prompt_of(front)


def test_all_of_its_tools(claude, tmp_path):
    with modelled_front("Hello.", context_length=200_000, tokens_per_step=8) as front:
        printed, asked = run(claude, front, tmp_path, "say hello")
        assert printed == "Hello."
        assert len(asked) == 1
        assert '"name": "Bash"' in prompt_of(front)
        assert prompt_of(front).count('"parameters": ') > 10


def test_it_completes_a_tool_loop(claude, tmp_path):
    call = 'I look.\n<tool_call>\n{"name": "Bash", "arguments": {"command": "echo magic-$((40+2))"}}\n</tool_call>'
    with modelled_front(call, "It said magic-42.", context_length=200_000, tokens_per_step=8) as front:
        printed, asked = run(claude, front, tmp_path, "run it", "--tools", "Bash", "--allowedTools", "Bash")
        assert printed == "It said magic-42."
        assert [line["stop_reason"] for line in asked] == ["tool_use", "end"]
        prompt = prompt_of(front)
        assert "<tool_response>\nmagic-42\n</tool_response>" in prompt
        assert prompt_of(front, 0) == prompt[: len(prompt_of(front, 0))]  # what a prompt cache lives on
