"""The `pensieved` command and how its errors end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pensieved import __version__
from pensieved.cli.claude import PASSED_ON, claude
from pensieved.cli.doctor import doctor
from pensieved.cli.models import app as models
from pensieved.cli.run import run
from pensieved.cli.service import register
from pensieved.errors import PensievedError

app = typer.Typer(
    name="pensieved",
    help="A local LLM daemon: declare a model and a port, and it is simply there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command(context_settings=PASSED_ON)(claude)
register(app)
app.command()(doctor)
app.add_typer(models, name="models", help="List, fetch, check and remove prepared models.")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
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
        app()
    except PensievedError as error:
        sys.stderr.write(f"pensieved: {error.what}\n")
        if error.hint:
            sys.stderr.write(f"{error.hint}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
