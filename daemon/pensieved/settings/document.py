"""The schema as people read it: config/pensieved.toml and config/pensieved.schema.json are made here.

`python -m pensieved.settings.document FOLDER` writes both; a test fails when the committed ones differ.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pensieved.settings.schema import Settings
from pensieved.settings.units import exact_duration, exact_size, parse_duration, parse_size

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_HEAD = """\
# pensieved's configuration, every key with its default.
#
# Precedence: command line > environment (PENSIEVED_SERVER__PORT=8080) > this file > defaults.
# Unknown keys are errors. Sizes read like "4GiB", durations like "30s" or "10m".
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
    model = field.annotation
    assert isinstance(model, type)  # noqa: S101  every field of Settings is a section
    assert issubclass(model, BaseModel)  # noqa: S101
    title = (model.__doc__ or "").partition(": ")[2].strip()
    lines = [f"[{name}]  # {title}"]
    for key, value in model.model_fields.items():
        lines += textwrap.wrap(value.description or "", 100, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"# {key} = {_default(value)}")
    return "\n".join(lines) + "\n"


def plain_value(field: FieldInfo, value: Any) -> Any:
    """A setting as the TOML would say it: sizes and durations in their units, paths as text."""
    readers = {getattr(item, "func", None) for item in field.metadata}
    if parse_size in readers:
        return exact_size(value)
    if parse_duration in readers:
        return exact_duration(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]  # a SecretStr says asterisks
    return value


def _default(field: FieldInfo) -> str:
    value: Any = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    if value is None:
        return '""  # not set by default'
    if isinstance(value, Path):  # the only one: the cache folder, which differs per user
        return '"~/.cache/pensieved"  # on macOS "~/Library/Caches/pensieved"'
    return json.dumps(plain_value(field, value))


def main() -> None:
    """Write both files into the folder named on the command line."""
    folder = Path(sys.argv[1])
    (folder / "pensieved.toml").write_text(example_toml(), encoding="utf-8")
    (folder / "pensieved.schema.json").write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
