"""The schema as people read it: config/pensieved.toml, config/pensieved.schema.json and docs/configuration.md.

`python -m pensieved.settings.document config docs` writes all three; a test fails when the committed ones differ.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pensieved.settings.effect import EFFECTS
from pensieved.settings.schema import Settings
from pensieved.settings.units import exact_duration, exact_size, parse_auto_size, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

_HEAD = """\
# pensieved's configuration, every key with its default.
#
# Precedence: command line > environment (PENSIEVED_SERVER__PORT=8080) > this file > defaults.
# Unknown keys are errors. Sizes read like "4GiB", durations like "30s" or "10m".
"""

_PAGE = """\
# Configuration

<!-- Made by `make docs` from the schema; change that instead. -->

One TOML says everything; every key may be left out. `pensieved config path` says which file is read,
[config/pensieved.toml](../config/pensieved.toml) has every key with its default, and
[config/pensieved.schema.json](../config/pensieved.schema.json) lets editors check and complete it
(`pensieved config schema` prints it).

Precedence: command line, then environment, then the TOML, then defaults. In the environment a key is
`PENSIEVED_SECTION__KEY`; a list is written as `a, b`. An unknown key or a wrong value is an error that names the file, the
line and the nearest known key; `pensieved config show` says where each value comes from, `pensieved config validate` checks a
file, `pensieved config edit` puts one in place only once it is valid.

A *size* is a number of bytes or reads like `"4GiB"`, `"500MB"`; a *duration* is a number of seconds or reads like `"250ms"`, `"30s"`,
`"10m"`, `"2h"`. An empty text unsets a key that has no default.

A changed TOML applies by itself within a second or two; *a change* says how: **applied live**, from the next request or
check on; **engine swapped**, the new engine is loaded while the old one serves, where memory allows; **needs restart**,
`pensieved restart`, until which the old value stays in force.
"""


def example_toml() -> str:
    """Every section and key, commented out at its default, with its description above."""
    return "\n".join([_HEAD, *(_section(name, field) for name, field in Settings.model_fields.items())])


def json_schema() -> str:
    """The JSON Schema that editors use to check and complete the TOML."""
    schema = Settings.model_json_schema()
    schema["title"] = "pensieved configuration"
    schema["$defs"]["CacheSettings"]["properties"]["dir"].pop("default", None)  # differs per user
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _section(name: str, field: FieldInfo) -> str:
    model = _model(field)
    title = (model.__doc__ or "").partition(": ")[2].strip()
    lines = [f"[{name}]  # {title}"]
    for key, value in model.model_fields.items():
        lines += textwrap.wrap(value.description or "", 100, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"# {key} = {_default(value)}")
    return "\n".join(lines) + "\n"


def _model(field: FieldInfo) -> type[BaseModel]:
    model = field.annotation
    assert isinstance(model, type)  # noqa: S101  every field of Settings is a section
    assert issubclass(model, BaseModel)  # noqa: S101
    return model


def plain_value(field: FieldInfo, value: Any) -> Any:
    """A setting as the TOML would say it: sizes and durations in their units, paths as text."""
    readers = {getattr(item, "func", None) for item in field.metadata}
    if readers & {parse_size, parse_auto_size}:
        return value if value == "auto" else exact_size(value)
    if parse_duration in readers:
        return exact_duration(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]  # a SecretStr says asterisks
    return value


def reference() -> str:
    """docs/configuration.md: every key with its type, default, variable, and what a change of it does."""
    definitions = Settings.model_json_schema()["$defs"]
    return "\n".join(
        [_PAGE, *(_table(name, field, definitions) for name, field in Settings.model_fields.items())]
    )


def _table(section: str, field: FieldInfo, definitions: dict[str, Any]) -> str:
    model = _model(field)
    title = (model.__doc__ or "").partition(": ")[2].strip()
    rows = [f"## [{section}]", "", title[0].upper() + title[1:], ""]
    rows += ["| key | type | default | variable | a change | what it is |", "|---|---|---|---|---|---|"]
    properties = definitions[model.__name__]["properties"]
    for key, value in model.model_fields.items():
        cells = (
            f"`{key}`",
            _type(value, properties[key]),
            _shown_default(value),
            f"`{f'PENSIEVED_{section}__{key}'.upper()}`",
            EFFECTS[f"{section}.{key}"].words,
            value.description or "",
        )
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _type(field: FieldInfo, schema: dict[str, Any]) -> str:
    """What may be written, in words: ``integer, 0 to 65535``."""
    readers = {getattr(item, "func", None) for item in field.metadata}
    if parse_size in readers:
        return "size"
    if parse_auto_size in readers:
        return '`"auto"` or size'
    if parse_duration in readers:
        return "duration"
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind["type"] != "null"]
    return " or ".join(filter(None, map(_kind, kinds)))


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f'`"{value}"`' for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return "list of texts"
    name = {"string": "text", "boolean": "`true` or `false`"}.get(schema["type"], schema["type"])
    name = "path" if schema.get("format") == "path" else str(name)
    return ", ".join([name, *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    least, most, above = (schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
    if least is not None:
        yield f"{least:g} to {most:g}" if most is not None else f"at least {least:g}"
    elif above is not None:
        yield f"above {above:g}" + (f", to {most:g}" if most is not None else "")


def _shown_default(field: FieldInfo) -> str:
    value, _, note = _default(field).partition("  # ")
    if field.default is None and field.default_factory is None:
        return note.removesuffix(" by default")
    return f"`{value}`" + (f" ({note.replace(chr(34), '`')})" if note else "")


def _default(field: FieldInfo) -> str:
    value: Any = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    if value is None:
        return '""  # not set by default'
    if isinstance(value, Path):  # the only one: the cache folder, which differs per user
        return '"~/.cache/pensieved"  # on macOS "~/Library/Caches/pensieved"'
    return json.dumps(plain_value(field, value))


def main() -> None:
    """Write all files into the two folders named on the command line."""
    config, docs = map(Path, sys.argv[1:])
    (config / "pensieved.toml").write_text(example_toml(), encoding="utf-8")
    (config / "pensieved.schema.json").write_text(json_schema(), encoding="utf-8")
    (docs / "configuration.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
