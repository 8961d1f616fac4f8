"""The generated pages are current, and complete."""

import re
from pathlib import Path

import pytest
import typer

from pensieved.cli.app import application
from pensieved.cli.checks.run import CHECKS
from pensieved.cli.document import commands_page, with_metrics
from pensieved.http.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"


def leaves(command, path=("pensieved",)):
    """Every command that does something, by its words."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield " ".join(path), command
        return
    for name, sub in inner.items():
        yield from leaves(sub, (*path, name))


def test_the_page_of_commands_is_current():
    assert (DOCS / "cli.md").read_text() == commands_page(), "run `make docs`"


def test_every_command_and_option_is_on_it():
    page = (DOCS / "cli.md").read_text()
    found = dict(leaves(typer.main.get_command(application())))
    assert {"pensieved run", "pensieved config show", "pensieved models pull"} <= set(found)
    for name, command in found.items():
        section = re.split(r"^##+ ", page.partition(f" {name}\n\n```")[2], flags=re.MULTILINE)[0]
        assert section, name
        for parameter in command.params:
            for option in (
                parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            ):
                assert option in section, (name, option)


def test_the_table_of_metrics_is_current():
    text = (DOCS / "operations.md").read_text()
    assert with_metrics(text) == text, "run `make docs`"
    for metric in METRICS:
        assert f"| `{metric.exposed}` | {metric.kind} |" in text
    for name in re.findall(r"pensieved_[a-z_]+(?=[\[{])", text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert base in {metric.exposed for metric in METRICS}, name


def test_a_page_without_a_place_for_it_is_an_error():
    with pytest.raises(ValueError, match="no place"):
        with_metrics("# Operations\n")


def test_every_check_of_doctor_is_explained():
    section = (DOCS / "operations.md").read_text().partition("doctor\n")[2]
    for name in (*CHECKS, "blas"):
        assert f"`{name}`" in section, name
