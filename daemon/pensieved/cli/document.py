"""docs/cli.md, and the table of metrics in docs/operations.md, made of the very things they describe.

`python -m pensieved.cli.document docs` writes both; a test fails when the committed ones differ. Only what every
version of typer says of a command is used, so that the page depends on this program alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pensieved.cli.app import application
from pensieved.http.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# The command line

<!-- Made by `make docs` from the commands themselves; change those instead. -->

`pensieved COMMAND --help` says the same in the terminal. `--json`, where a command has it, is for scripts: fields may be
added, none is renamed or removed without a word in the changelog.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed: the message says what, why, and what to do next |
| 2 | usage: the command line, the environment or the TOML is wrong |
| 3 | there is no daemon to talk to, or it does not answer requests yet |
| 130 | ended by Ctrl-C |

`pensieved --version` prints the version, `pensieved --install-completion` makes the shell complete commands and options.
"""

_TABLE = re.compile(r"(<!-- metrics: made by `make docs` -->\n).*?(<!-- end of metrics -->\n)", re.DOTALL)


def commands_page() -> str:
    """docs/cli.md: every command with its arguments and options."""
    root: Any = typer.main.get_command(application())
    return "\n".join([_HEAD, *_group(root, ("pensieved",))])


def with_metrics(operations: str) -> str:
    """docs/operations.md with the table of metrics as it is now.

    Raises:
        ValueError: it has no place for it.
    """
    changed, places = _TABLE.subn(lambda place: f"{place[1]}\n{metrics_table()}\n{place[2]}", operations)
    if places != 1:
        raise ValueError("docs/operations.md has no place for the table of metrics")
    return changed


def metrics_table() -> str:
    """A row for each metric."""
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.exposed}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows) + "\n"


def _group(group: Any, path: tuple[str, ...]) -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        inner = (*path, name)
        if getattr(command, "commands", None):
            yield f"## {' '.join(inner)}\n\n{command.help}\n"
            yield from _group(command, inner)
        else:
            yield from _section(command, inner, f"{'#' * len(inner)} {' '.join(inner)}")


def _section(command: Any, path: tuple[str, ...], heading: str) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    words = [*path, *(_place(one) for one in arguments), *(["[OPTIONS]"] if options else [])]
    yield f"{heading}\n"
    yield f"```console\n$ {' '.join(words)}\n```\n\n{_text(command.help)}\n"
    if arguments or options:
        rows = [f"| `{_place(one)}` | {_help(one)} |" for one in arguments]
        rows += [f"| {_names(one)} | {_help(one)} |" for one in options]
        yield "\n".join(["| option | |", "|---|---|", *rows]) + "\n"


def _place(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.name.upper()}"
    return ", ".join(f"`{name}{value}`" for name in [*option.opts, *option.secondary_opts])


def _help(parameter: Any) -> str:
    """Its help, and its default where that is more than "not given"."""
    text, default = _text(parameter.help or "").replace("|", "\\|"), parameter.default
    if isinstance(default, bool) and parameter.secondary_opts:
        names = parameter.opts if default else parameter.secondary_opts
        return f"{text} Default: `{names[0]}`."
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        return f"{text} Default: `{default}`."
    return text


def _text(words: str) -> str:
    """Help as a paragraph or more; lines within one are joined."""
    paragraphs = [" ".join(part.split()) for part in words.split("\n\n")]
    return "\n\n".join(paragraphs)


def main() -> None:
    """Write both into the folder named on the command line."""
    docs = Path(sys.argv[1])
    operations = docs / "operations.md"
    (docs / "cli.md").write_text(commands_page(), encoding="utf-8")
    operations.write_text(with_metrics(operations.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
