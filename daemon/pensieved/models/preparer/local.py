"""Models that lie on this machine: nobody published hashes for them, so they are verified against themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pensieved.errors import IntegrityError, ModelUnavailableError
from pensieved.models.hashing import sha256_of
from pensieved.models.manifest import SourceFile
from pensieved.models.preparer.origin import Resolution
from pensieved.models.preparer.select import select_files, select_gguf
from pensieved.models.progress import PrepareStage
from pensieved.models.source import FolderSource, GgufSource

if TYPE_CHECKING:
    from collections.abc import Collection

    from pensieved.models.preparer.report import Reporter
    from pensieved.models.preparer.select import Selection


class LocalOrigin:
    """A folder, or a GGUF file with the other parts if it is split."""

    linkable = True

    def __init__(
        self, source: FolderSource | GgufSource, quantization: str, report: Reporter, *, code: bool
    ) -> None:
        self._source = source
        self._quantization = quantization
        self._report = report
        self._code = code
        path = Path(source.path)
        self._folder = path if isinstance(source, FolderSource) else path.parent
        self._just_hashed: Resolution | None = None

    def resolve(self) -> Resolution:
        """Hash the model's files: the hashes are what later runs compare with."""
        chosen = self._choose()
        total = sum((self._folder / name).stat().st_size for name in chosen.files)
        self._report.begin(PrepareStage.VERIFYING, str(self._folder), total)
        files = tuple(self._described(name) for name in chosen.files)
        self._just_hashed = Resolution("", files, chosen.format)
        return self._just_hashed

    def room(self, resolution: Resolution) -> dict[Path, int]:
        """Nothing is fetched."""
        del resolution
        return {}

    def acquire(self, resolution: Resolution, names: Collection[str] | None = None) -> Path:
        """The folder itself."""
        for file in resolution.files:
            if names is None or file.path in names:
                self._require(file, hashed=resolution is self._just_hashed)
        return self._folder

    def _require(self, file: SourceFile, *, hashed: bool) -> None:
        path = self._folder / file.path
        if not path.is_file():
            raise ModelUnavailableError(f"{path} is gone.", hint="Put it back, or name another model.")
        if not hashed and sha256_of(path, self._report.advance) != file.sha256:
            raise IntegrityError(
                f"{path} has other bytes than when the model was prepared, though its time is the same.",
                hint="Restore it from where it came; or touch it, if the change is meant.",
            )

    def _choose(self) -> Selection:
        names = [str(path.relative_to(self._folder)) for path in self._folder.iterdir() if path.is_file()]
        if isinstance(self._source, GgufSource):
            return select_gguf(names, Path(self._source.path).name, str(self._folder))
        return select_files(names, self._quantization, str(self._folder), code=self._code)

    def _described(self, name: str) -> SourceFile:
        path = self._folder / name
        status = path.stat()
        return SourceFile(
            path=name,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256_of(path, self._report.advance),
        )
