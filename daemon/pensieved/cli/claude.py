"""`pensieved claude`: Claude Code, pointed at this daemon and told what model it talks to.

The names of the variables and what each does were read from Claude Code 2.1.197, not from its documentation:

* A token in ANTHROPIC_AUTH_TOKEN is used as it is; one in ANTHROPIC_API_KEY must be confirmed in a dialog.
* The context size (CLAUDE_CODE_MAX_CONTEXT_TOKENS) counts only for models whose name does not begin with
  ``claude-``; any other one is taken to have 200,000 tokens.
* Half a dozen variables name models for subagents and small chores; one left out asks for a model of the cloud.
* It begins to compact 13,000 tokens before what the longest answer leaves of the context, and refuses to ask
  within 3,000. In a small context both leave nothing, so both are off there; it then compacts when the daemon
  says that the prompt is too long.
* The attribution line at the head of its system prompt changes with each session and each subagent, and would
  make the prompt cache useless.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from pensieved.cli.address import Address, address_of
from pensieved.cli.ask import Answer, ask
from pensieved.errors import NotRunningError, PensievedError
from pensieved.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = "claude"
DUMMY_TOKEN = "pensieved"  # noqa: S105  what is sent where no key is asked for
MODEL_ALIAS = "local"

_LONGEST_ANSWER = 32_000  # what Claude Code asks for itself
_COMPACTS_BEFORE = 13_000  # its constants, see above
_MOST_RESERVED = 20_000
_LEAST_TO_WORK_WITH = 24_000  # its system prompt and tools alone are 16,000 tokens

_MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_CUSTOM_MODEL_OPTION",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)

ELSEWHERE = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_UNIX_SOCKET",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
)
"""Variables that would lead to another service, or hand its credentials to this one."""


class _Model(msgspec.Struct):
    name: str
    aliases: tuple[str, ...] = ()


class _Limits(msgspec.Struct):
    context_length: int | None = None
    request_timeout: float = 3600.0


class Served(msgspec.Struct):
    """What GET /v1/status says about the model, as far as Claude Code must know."""

    model: _Model
    limits: _Limits


def claude(
    context: typer.Context,
    print_env: Annotated[
        bool, typer.Option("--print-env", help="Print the variables, an API key included, and start nothing.")
    ] = False,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Where the daemon is; by default as configured.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The TOML to read.")] = None,
) -> None:
    """Start Claude Code against this daemon; all other arguments are Claude Code's own.

    After `--` even those that are also this command's: `pensieved claude -- --help`.
    """
    address = address_of(load_settings(config=config).server)
    if base_url is not None:
        address = Address(base_url.rstrip("/"), address.key)
    served = _look(address)
    variables = claude_variables(address, served, os.environ)
    if print_env:
        typer.echo("\n".join(shell_lines(variables, os.environ)))
        return
    program = _installed()
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    sys.stdout.flush()
    os.execve(program, [PROGRAM, *context.args], kept | variables)  # noqa: S606  no shell; it becomes Claude Code


def claude_variables(address: Address, served: Served, shell: Mapping[str, str]) -> dict[str, str]:
    """What Claude Code must find in its environment.

    Args:
        address: of the daemon.
        served: what the daemon says about its model.
        shell: the user's environment; what it says about limits and timeouts stays as it is.
    """
    name = MODEL_ALIAS if MODEL_ALIAS in served.model.aliases else served.model.name
    settled = {
        "ANTHROPIC_BASE_URL": address.url,
        "ANTHROPIC_AUTH_TOKEN": address.key or DUMMY_TOKEN,
        **dict.fromkeys(_MODELS, name),
        "ANTHROPIC_CUSTOM_MODEL_OPTION_NAME": served.model.name,
        "ANTHROPIC_CUSTOM_MODEL_OPTION_DESCRIPTION": "served by pensieved",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    preferred = {
        "API_TIMEOUT_MS": str(round(served.limits.request_timeout * 1000)),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",  # a prompt computed twice helps nobody
        "DISABLE_COST_WARNINGS": "1",
        **_sizes(served.limits.context_length),
    }
    return settled | {name: shell.get(name) or value for name, value in preferred.items()} | _no_proxy(shell)


def shell_lines(variables: Mapping[str, str], shell: Mapping[str, str]) -> list[str]:
    """The same for a POSIX shell: ``eval "$(pensieved claude --print-env)"``."""
    unset = [f"unset {name}" for name in ELSEWHERE if name in shell]
    return unset + [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _sizes(context: int | None) -> dict[str, str]:
    if context is None:
        return {}
    answer = max(1, min(_LONGEST_ANSWER, context // 4))
    sizes = {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(context), "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(answer)}
    if context - min(answer, _MOST_RESERVED) - _COMPACTS_BEFORE < _LEAST_TO_WORK_WITH:
        sizes |= {"DISABLE_AUTO_COMPACT": "1", "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE": str(context)}
    return sizes


def _no_proxy(shell: Mapping[str, str]) -> dict[str, str]:
    """Loopback past the proxy, where there is one."""
    if not any(name.lower() in {"http_proxy", "https_proxy", "all_proxy"} for name in shell):
        return {}
    spared = shell.get("NO_PROXY") or shell.get("no_proxy") or ""
    names = [name for name in spared.split(",") if name]
    together = ",".join(dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"]))
    return {"NO_PROXY": together, "no_proxy": together}


def _look(address: Address) -> Served:
    """What the daemon serves.

    Raises:
        NotRunningError: none answers, or it is not ready.
    """
    answer = ask(address)
    if answer is None:
        raise NotRunningError(
            f"No pensieved answers on {address.url}"
            f"{'' if address.key else ', or it wants an API key that is not configured here'}.",
            hint="Start it with `pensieved run` or `pensieved start`, or say where it is: --base-url URL.",
        )
    if not answer.ready and not answer.report.short_of_memory:
        raise NotRunningError(_not_ready(answer), hint="`pensieved status --watch` shows how far it is.")
    return msgspec.json.decode(answer.raw, type=Served)


def _not_ready(answer: Answer) -> str:
    reason = f": {answer.report.error}" if answer.report.error else ""
    return f"The daemon is not ready yet, it is {answer.report.phase}{reason}."


def _installed() -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise PensievedError(
            "Claude Code is not installed: there is no `claude` on the PATH.",
            hint="Install it with: npm install -g @anthropic-ai/claude-code",
        )
    return program
