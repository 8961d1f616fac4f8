"""Repairing a prepared folder: only what is bad is fetched, copied or built again, and replaced by a rename."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from pensieved.errors import IntegrityError
from pensieved.models.hashing import sha256_of
from pensieved.models.manifest import read_manifest, write_manifest
from pensieved.models.preparer.origin import Resolution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pensieved.models.manifest import Manifest, ModelFile
    from pensieved.models.preparer.assemble import Assembler
    from pensieved.models.preparer.origin import Origin
    from pensieved.models.preparer.report import Reporter


class Repairer:
    """Repairs one folder."""

    def __init__(self, report: Reporter, origin: Origin, assembler: Assembler) -> None:
        self._report = report
        self._origin = origin
        self._assembler = assembler

    def repair(self, folder: Path, manifest: Manifest, bad: Sequence[ModelFile]) -> Path | None:
        """Make the `bad` files what the manifest says.

        Returns:
            None when the folder is whole again; a complete new folder to be published instead, when a file that
            was built came out differently, as it may from another version of MLX.

        Raises:
            PensievedError: the source cannot be had any more.
        """
        resolution = Resolution(manifest.commit, manifest.sources, manifest.format)
        if bad:
            names = ", ".join(file.path for file in bad)
            self._report.note(f"{manifest.name} is damaged; repairing {names}")
        if taken := [file for file in bad if file.origin != "built"]:
            self._take_again(folder, resolution, taken)
        if built := [file for file in bad if file.origin == "built"]:
            rebuilt = self._assembler.assemble(resolution)
            if not _equal(built, rebuilt):
                self._report.note(f"{manifest.name} was built by other versions; replacing all of it")
                return rebuilt
            for file in built:
                (rebuilt / file.path).replace(folder / file.path)
        self._remember_times(folder, manifest)
        return None

    def _take_again(self, folder: Path, resolution: Resolution, files: Sequence[ModelFile]) -> None:
        source = self._origin.acquire(resolution, [file.path for file in files])
        for file in files:
            fresh = folder / f".{file.path}.new"
            fresh.unlink(missing_ok=True)
            if file.origin == "linked":
                fresh.symlink_to((source / file.path).resolve())
            else:
                shutil.copyfile(source / file.path, fresh)
                _sync(fresh)
            if sha256_of(fresh) != file.sha256:
                raise IntegrityError(f"{file.path} is published with other bytes than when it was prepared.")
            fresh.replace(folder / file.path)

    def _remember_times(self, folder: Path, manifest: Manifest) -> None:
        files = tuple(
            msgspec.structs.replace(file, mtime_ns=(folder / file.path).stat().st_mtime_ns)
            for file in manifest.files
        )
        write_manifest(folder, msgspec.structs.replace(manifest, files=files))


def _equal(files: Sequence[ModelFile], rebuilt: Path) -> bool:
    manifest = read_manifest(rebuilt)
    hashes = {file.path: file.sha256 for file in manifest.files} if manifest else {}
    return all(hashes.get(file.path) == file.sha256 for file in files)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
