"""The cache of prepared models: what lies there, whether it is what it was, and whether there is room for more."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from pensieved.cli.checks.finding import Finding, Level
from pensieved.errors import PensievedError
from pensieved.models.cache import ModelCache
from pensieved.models.check import quick_faults
from pensieved.models.preparation import PrepareRequest
from pensieved.models.source import parse_source
from pensieved.settings.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pensieved.cli.checks.scene import Scene
    from pensieved.models.cache import Entry
    from pensieved.settings import Settings

SCARCE = 4 * 1024**3
"""Free space below which a model of usual size does not fit."""

FULL = 256 * 1024**2
"""Free space below which logs, locks and compiled kernels are in danger."""

_SHOWN = 3  # damaged files that are named


def configured_key(settings: Settings) -> str | None:
    """The cache's name for the configured model; None where the configuration names none."""
    try:
        source = parse_source(settings.model.url, settings.model.revision)
    except PensievedError:
        return None
    return PrepareRequest(
        source=source,
        quantization=settings.model.quantization,
        device=settings.engine.device,
        cache_dir=settings.cache.dir,
    ).key


def model(scene: Scene) -> Iterator[Finding]:
    """Whether the configured model can be loaded without fetching anything."""
    settings = scene.settings
    try:
        parse_source(settings.model.url, settings.model.revision)
    except PensievedError as error:
        yield Finding("model", Level.PROBLEM, error.what, todo=error.hint)
        return
    key = configured_key(settings)
    entry = next((one for one in ModelCache(settings.cache.dir).entries() if one.key == key), None)
    if entry is None:
        yield Finding(
            "model",
            Level.NOTE,
            f"{settings.model.url} is not prepared yet.",
            "The next start fetches and converts it, which needs the network.",
            f"`pensieved models pull {settings.model.url}` does it now.",
        )
    elif not _faults(entry) and entry.manifest is not None:
        what = f"{entry.manifest.name} is prepared: {entry.manifest.effective_quantization}, {format_size(entry.manifest.size)}."
        yield Finding("model", Level.OK, what, str(entry.folder))
    # a damaged one is the cache's to tell of


def cache(scene: Scene) -> Iterator[Finding]:
    """Manifests, sizes and times of everything prepared, and what interrupted preparations left."""
    folder = scene.settings.cache.dir
    if folder.exists() and not folder.is_dir():
        yield Finding(
            "cache",
            Level.PROBLEM,
            f"{folder} is no folder.",
            todo="Set cache.dir to one, or remove that file.",
        )
        return
    if not _writable(folder):
        yield Finding(
            "cache",
            Level.PROBLEM,
            f"{folder} cannot be written by this user.",
            "No model can be prepared there.",
            "Make it yours, or set cache.dir to another folder.",
        )
        return
    found = ModelCache(folder)
    entries = found.entries()
    damaged = {entry.key: faults for entry in entries if (faults := _faults(entry))}
    for key, faults in damaged.items():
        yield _damage(key, faults, serious=key == configured_key(scene.settings))
    if not damaged:
        size = sum(entry.manifest.size for entry in entries if entry.manifest)
        words = f"{len(entries)} prepared, {format_size(size)}; sizes and times are as they were."
        yield Finding("cache", Level.OK, words, str(folder))
    yield from _garbage(found)


def disk(scene: Scene) -> Iterator[Finding]:
    """Room on the cache's disk."""
    folder = scene.settings.cache.dir
    free = shutil.disk_usage(_nearest(folder)).free
    words = f"{format_size(free)} free where {folder} lies."
    if free < FULL:
        yield Finding("disk", Level.PROBLEM, words, "Nothing more can be written soon.", "Free some space.")
    elif free < SCARCE:
        yield Finding(
            "disk",
            Level.WARNING,
            words,
            "A model of 7 billion parameters takes 4 GiB at 4 bits, and more while it is converted.",
            "`pensieved models prune` removes what is not configured; cache.dir may be on another disk.",
        )
    else:
        yield Finding("disk", Level.OK, words)


def _damage(key: str, faults: list[str], *, serious: bool) -> Finding:
    named = ", ".join(faults[:_SHOWN]) + (f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")
    if serious:
        return Finding(
            "cache",
            Level.PROBLEM,
            f"{key}, which is configured, is damaged: {named}.",
            "The next start repairs it first, for which it may need the network.",
            "`pensieved models verify` looks closer; `pensieved models pull` repairs it now.",
        )
    return Finding(
        "cache",
        Level.WARNING,
        f"{key} is damaged: {named}.",
        "It is repaired when it is configured again.",
        f"`pensieved models remove {key}`, where it is not needed any more.",
    )


def _faults(entry: Entry) -> list[str]:
    if entry.folder is None or entry.manifest is None:
        return ["manifest.toml"]
    return [file.path for file in quick_faults(entry.folder, entry.manifest)]


def _garbage(found: ModelCache) -> Iterator[Finding]:
    left = found.collect_garbage(dry_run=True)
    if left:
        size = sum(path.lstat().st_size for folder in left for path in folder.rglob("*") if path.is_file())
        yield Finding(
            "cache",
            Level.NOTE,
            f"{len(left)} unfinished or superseded folders take {format_size(size)}.",
            "Interrupted preparations leave them; the next preparation of the same model removes them.",
            "`pensieved models prune` removes them now, and every model but the configured one.",
        )


def _writable(folder: Path) -> bool:
    return os.access(_nearest(folder), os.W_OK | os.X_OK)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
