"""A run as one JSON: what it ran on, how, and a flat list of measurements, written again after each of them.

A measurement names its part, contestant and round; the rest are its figures. Times are in seconds, sizes in bytes.
A run that was cut short leaves what it had measured, and `complete` false.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = 1


@dataclass
class Result:
    """A run. `path` is where it is kept; None: only in memory."""

    facts: dict[str, Any]
    measurements: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    path: Path | None = None

    def add(self, part: str, contestant: str, round_: int, **figures: Any) -> None:
        """Keep a measurement."""
        self.measurements.append({"part": part, "contestant": contestant, "round": round_, **figures})
        self.save()

    def save(self) -> None:
        """Write the file anew, in one piece."""
        if self.path is None:
            return
        content = {"schema": SCHEMA, "complete": self.complete, **self.facts}
        head = json.dumps(content, indent=1, ensure_ascii=False)[:-2]
        lines = ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in self.measurements)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_text(f'{head},\n "measurements": [\n{lines}\n ]\n}}\n', encoding="utf-8")
        fresh.replace(self.path)

    def of(self, part: str, **fixed: Any) -> Iterator[dict[str, Any]]:
        """The measurements of a part whose figures are as `fixed` says."""
        for each in self.measurements:
            if each["part"] == part and all(each.get(name) == value for name, value in fixed.items()):
                yield each

    def contestants(self, part: str) -> list[str]:
        """Who has measurements in a part, in the order of the run's list."""
        there = {each["contestant"] for each in self.of(part)}
        return [name for name in self.facts["contestants"] if name in there]


def read(path: Path) -> Result:
    """A kept run. Raises ValueError for one of another schema."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path} has another schema; measure again")
    measurements, complete = content.pop("measurements"), content.pop("complete")
    return Result(content, measurements, complete, path)
