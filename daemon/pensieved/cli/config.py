"""`pensieved config`: what is configured, where each value comes from, and changing it safely."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pensieved.errors import ConfigError, PensievedError, UsageError
from pensieved.service.agent import find_agent
from pensieved.service.secrecy import is_secret
from pensieved.settings import Settings, load_settings
from pensieved.settings.document import example_toml, json_schema, plain_value
from pensieved.settings.edit import read_text, write_text
from pensieved.settings.load import (
    ENV_PREFIX,
    config_file,
    parse_config,
    read_config,
    read_environment,
    settings_from,
)
from pensieved.settings.paths import DEFAULT_LABEL, default_config_file
from pensieved.settings.tomltext import line_of

app = typer.Typer(no_args_is_help=True)

Config = Annotated[Path | None, typer.Option(help="The TOML to read.")]
Label = Annotated[str | None, typer.Option(help="The agent whose configuration is meant.")]


@app.command()
def show(
    config: Config = None,
    label: Label = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every effective value and where it comes from."""
    path = _existing(config, label)
    rows = list(_rows(load_settings(config=path), path))
    if as_json:
        typer.echo(
            json.dumps({key: {"value": value, "from": origin} for key, value, origin in rows}, indent=2)
        )
        return
    width = max(len(f"{key} = {json.dumps(value)}") for key, value, _ in rows)
    for key, value, origin in rows:
        typer.echo(f"{f'{key} = {json.dumps(value)}':<{min(width, 60)}}  # {origin}")


@app.command()
def validate(
    file: Annotated[Path | None, typer.Argument(help="The TOML; by default the one in use.")] = None,
    label: Label = None,
) -> None:
    """Check a TOML; exit 2 with file, line and key of everything that is wrong."""
    path = file or _existing(None, label)
    load_settings(config=path)
    typer.echo(f"{path} is valid." if path else "There is no TOML; the defaults are valid.")


@app.command()
def path(config: Config = None, label: Label = None) -> None:
    """Print which TOML is read, whether it exists or not."""
    typer.echo(_named(config, label))


@app.command()
def schema() -> None:
    """Print the JSON Schema, for editors that check and complete TOML."""
    typer.echo(json_schema(), nl=False)


@app.command()
def edit(config: Config = None, label: Label = None) -> None:
    """Open the TOML in $VISUAL or $EDITOR; it takes its place only once it is valid."""
    target = _named(config, label)
    before = read_text(target) or example_toml()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / target.name
        write_text(draft, before)
        while True:
            _open_editor(draft)
            after = read_text(draft)
            try:
                settings_from(after, target)
            except ConfigError as error:
                if not _again(error):
                    raise
                continue
            break
    if after == read_text(target):
        typer.echo("Nothing changed.")
        return
    write_text(target, after)
    typer.echo(f"{target} is changed.")


def _again(error: ConfigError) -> bool:
    """Whether the user wants to mend it; without a terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        return False
    typer.echo(f"{error}\n", err=True)
    return typer.confirm("Edit again?", default=True, err=True)


def _open_editor(draft: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), str(draft)], check=False)
    except (OSError, ValueError):
        raise UsageError(f"The editor {editor!r} cannot be run.", hint="Set EDITOR.") from None
    if done.returncode:
        raise PensievedError(f"The editor ended with {done.returncode}; nothing is changed.")


def _named(config: Path | None, label: str | None) -> Path:
    """The TOML that is meant: the option's, else the agent's, else the one that `run` would read."""
    if config is not None or label is None:
        found = config_file(config)
        return found.absolute() if found else find_agent(DEFAULT_LABEL).config
    return find_agent(label).config


def _existing(config: Path | None, label: str | None) -> Path | None:
    """The same where it must be read; the default one may be missing."""
    named = _named(config, label)
    return named if config is not None or named.exists() or named != default_config_file() else None


def _rows(settings: Settings, path: Path | None) -> Any:
    """Dotted key, value as the TOML would say it, origin."""
    text = read_config(path) if path else ""
    toml, environment = parse_config(text, path), read_environment()
    for section, model in settings:
        for name, field in type(model).model_fields.items():
            key, value = f"{section}.{name}", plain_value(field, getattr(model, name))
            if value and is_secret(name, str(value)):
                value = "(set, not shown)"
            yield key, value, _origin(section, name, environment, toml, text, path)


def _origin(
    section: str, name: str, environment: dict[str, Any], toml: dict[str, Any], text: str, path: Path | None
) -> str:
    if name in environment.get(section, {}):
        return f"{ENV_PREFIX}{section.upper()}__{name.upper()}"
    if name in toml.get(section, {}):
        return f"{path}:{line_of(text, [section, name])}"
    return "default"
