"""Values as people write them: ``"4GiB"``, ``"30m"`` or plain numbers (bytes, seconds); lists as ``a, b``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

_SIZE = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZE |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def _quantity(value: object, units: dict[str, int] | dict[str, float], example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"write it like {example}")  # noqa: TRY004  pydantic turns ValueError into its own
    match = _QUANTITY.fullmatch(str(value))
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{value!r} is not understood; write it like {example}")
    return float(match[1]) * units[match[2].lower()]


def parse_size(value: object) -> int:
    """Bytes from ``"4GiB"``, ``"500MB"`` or a number of bytes. Raises ValueError."""
    return int(_quantity(value, _SIZE, '"4GiB"'))


def parse_auto_size(value: object) -> int | str:
    """`"auto"`, or bytes as `parse_size` reads them. Raises ValueError."""
    return "auto" if value == "auto" else parse_size(value)


def parse_duration(value: object) -> float:
    """Seconds from ``"30m"``, ``"250ms"`` or a number of seconds. Raises ValueError."""
    return _quantity(value, _SECONDS, '"30s" or "10m"')


def parse_list(value: object) -> object:
    """A list, also from the one line that a variable can hold: ``a, b`` or a JSON list. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("it begins like a JSON list and is none") from None


def format_size(size: float) -> str:
    """Bytes as people read them: ``98.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:  # noqa: PLR2004  the unit's own base
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Seconds as people read them: ``45s``, ``3m 20s``, ``2h 5m``."""
    whole = round(seconds)
    minutes, secs = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {secs}s" if minutes else f"{secs}s"


def exact_size(size: int) -> str:
    """Bytes in the largest unit that divides them: ``32MiB``; `parse_size` reads it back."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def exact_duration(seconds: float) -> str:
    """Seconds in the largest unit that divides them: ``10m``; `parse_duration` reads it back."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str), Field(ge=0)]
AutoSize = Annotated[
    Literal["auto"] | int, BeforeValidator(parse_auto_size, json_schema_input_type=int | str)
]
Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=float | str), Field(ge=0)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_list)]  # NoDecode: not only as JSON
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(parse_list)]
