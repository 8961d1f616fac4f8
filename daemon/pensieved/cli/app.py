"""The `pensieved` command and how its errors end.

A command's module is imported when that command is called: `status` need not wait for what `doctor` needs, nor the
daemon, whose port is to be up at once, for either.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pensieved import __version__
from pensieved.errors import PensievedError
from pensieved.imports import OPENSSL, uncollected, without

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class _Command:
    """A command, or with `help` a group of them, and where it is: the function of its name in a module of this package.

    `without` are packages that count as not installed while that module is imported.
    """

    name: str
    module: str
    panel: str | None = None
    help: str | None = None
    context: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def register(self, app: typer.Typer) -> None:
        with without(*self.without):
            module = import_module(f"pensieved.cli.{self.module}")
        if self.help is not None:
            app.add_typer(module.app, name=self.name, help=self.help)
        else:
            app.command(rich_help_panel=self.panel, context_settings=self.context)(getattr(module, self.name))


_AGENT = "Agent (launchd)"
# For a command whose further arguments are somebody else's.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
# What structlog would import for tracebacks that we never print (they show local variables, prompts among them) and for threads
# that we do not have; and OpenSSL, which asyncio, that nobody here uses, wants for connections, and hashlib for what is long:
# 9 MB for as long as the daemon runs, and part of the time until the port is up.
_UNUSED_BY_A_DAEMON = ("rich", "greenlet", *OPENSSL)
_COMMANDS = (
    _Command("run", "run", without=_UNUSED_BY_A_DAEMON),
    _Command("claude", "claude", context=_PASSED_ON),
    _Command("install", "install", _AGENT),
    _Command("uninstall", "service", _AGENT),
    _Command("start", "service", _AGENT),
    _Command("stop", "service", _AGENT),
    _Command("restart", "service", _AGENT),
    _Command("reload", "reload", _AGENT),
    _Command("status", "status", _AGENT),
    _Command("logs", "logs", _AGENT),
    _Command("doctor", "doctor"),
    _Command("config", "config", help="Show, check and edit the configuration."),
    _Command("models", "models", help="List, fetch, check and remove prepared models."),
)


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The commands that `words`, a command line, may mean: the one it names, else all of them."""
    app = typer.Typer(
        name="pensieved",
        help="A local LLM daemon: declare a model and a port, and it is simply there.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    named = next((word for word in words if not word.startswith("-")), None)
    for command in [each for each in _COMMANDS if each.name == named] or _COMMANDS:
        command.register(app)
    app.command()(version)
    return app


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: expected errors become one paragraph on stderr and an exit code, never a traceback."""
    try:
        with uncollected():
            app = application(sys.argv[1:])
        app()
    except PensievedError as error:
        sys.stderr.write(f"pensieved: {error.what}\n")
        if error.hint:
            sys.stderr.write(f"{error.hint}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
