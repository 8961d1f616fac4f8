"""Models on the Hugging Face Hub: pinned to a commit, fetched into the shared Hub cache, checked by hash."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, constants

from pensieved.backoff import Backoff
from pensieved.errors import IntegrityError, SourceUnreachableError
from pensieved.models.manifest import SourceFile
from pensieved.models.preparer.download import CacheLayout, Fetcher, etag_of, hub_cache, matches, partial_size
from pensieved.models.preparer.hub_errors import (
    NETWORK_ERRORS,
    describe,
    is_transient,
    is_unreachable,
    retry_after,
    translate,
)
from pensieved.models.preparer.origin import Resolution
from pensieved.models.preparer.select import INDEX, select_files, select_gguf
from pensieved.models.progress import PrepareStage

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from huggingface_hub.hf_api import ModelInfo, RepoSibling

    from pensieved.models.preparer.report import Reporter
    from pensieved.models.source import HubSource
    from pensieved.models.wire import Retries

_PARALLEL = 4
_API_TIMEOUT = 30.0
_SHA256_DIGITS = 64
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OFFLINE_ATTEMPTS = 2  # how often to ask an unreachable Hub when the cache could serve


class HubOrigin:
    """One repository at one revision."""

    linkable = True

    def __init__(
        self, source: HubSource, quantization: str, report: Reporter, retries: Retries, *, code: bool
    ) -> None:
        self._source = source
        self._quantization = quantization
        self._report = report
        self._retries = retries
        self._code = code
        self._endpoint = constants.ENDPOINT
        self._cache = hub_cache()
        self._layout = CacheLayout(self._cache, source.repo)

    def resolve(self) -> Resolution:
        """Ask the Hub which commit the revision is; without a Hub, the cache knows which it was."""
        cached = self._cached_commit()
        try:
            info = self._model_info(_OFFLINE_ATTEMPTS if cached else self._retries.attempts)
        except NETWORK_ERRORS as error:
            if cached is not None and is_unreachable(error):
                return self._resolve_from_cache(cached, error)
            raise translate(error, self._source.repo, self._source.revision, self._endpoint) from error
        commit = info.sha or ""
        if _COMMIT.fullmatch(commit) is None:
            raise SourceUnreachableError(
                f"{self._endpoint} answers, but not as a Hub does.", hint="Check HF_ENDPOINT."
            )
        self._layout.remember(self._source.revision, commit)
        return self._resolution(commit, [_source_file(sibling) for sibling in info.siblings or ()])

    def room(self, resolution: Resolution) -> dict[Path, int]:
        """Bytes still to be fetched into the Hub cache."""
        missing = sum(file.size - partial_size(self._layout, file) for file in resolution.files)
        return {self._cache: missing}

    def acquire(self, resolution: Resolution, names: Collection[str] | None = None) -> Path:
        """Fetch what is missing, hash what is there, and fetch again what is wrong."""
        files = [file for file in resolution.files if names is None or file.path in names]
        self._drop_bad(files)
        self._fetch([file for file in files if not self._has(resolution.commit, file)], resolution.commit)
        return self._layout.snapshot(resolution.commit)

    def _model_info(self, attempts: int) -> ModelInfo:
        api = HfApi(library_name="pensieved")
        backoff = Backoff(self._retries.first_delay, self._retries.longest_delay)
        for attempt in range(1, attempts + 1):
            try:
                return api.model_info(
                    self._source.repo,
                    revision=self._source.revision,
                    files_metadata=True,
                    timeout=_API_TIMEOUT,
                )
            except NETWORK_ERRORS as error:
                if attempt == attempts or not is_transient(error):
                    raise
                delay = max(backoff.next(), min(retry_after(error) or 0.0, self._retries.longest_delay))
                self._report.note(f"{self._endpoint}: {describe(error)}; trying again in {delay:.1f} s")
            time.sleep(delay)
        raise AssertionError(attempts)

    def _resolution(self, commit: str, files: list[SourceFile]) -> Resolution:
        names = [file.path for file in files]
        if self._source.file:
            chosen = select_gguf(names, self._source.file, self._source.repo)
        else:
            chosen = select_files(names, self._quantization, self._source.repo, code=self._code)
        if chosen.format == "gguf":
            self._report.note(f"taking {', '.join(chosen.weights)} of {self._source.repo}")
        wanted = [file for file in files if file.path in chosen.files]
        if unhashed := [file.path for file in wanted if _HASH.fullmatch(etag_of(file)) is None]:
            raise IntegrityError(
                f"{self._endpoint} publishes no hash of {', '.join(unhashed)} of {self._source.repo}."
            )
        return Resolution(commit, tuple(wanted), chosen.format)

    def _cached_commit(self) -> str | None:
        """The commit of the revision when it was last seen, if any of it is in the Hub cache."""
        ref = self._layout.refs / self._source.revision
        try:
            commit = ref.read_text(encoding="utf-8").strip()
        except OSError:
            commit = self._source.revision
        return commit if self._layout.snapshot(commit).is_dir() else None

    def _resolve_from_cache(self, commit: str, error: Exception) -> Resolution:
        snapshot = self._layout.snapshot(commit)
        paths = [path for path in snapshot.rglob("*") if path.is_file() and path.is_symlink()]
        files = [_cached_file(path, str(path.relative_to(snapshot))) for path in paths]
        resolution = self._resolution(commit, files)
        if missing := _missing_shards(resolution, snapshot):
            raise SourceUnreachableError(
                f"{self._endpoint} does not answer ({describe(error)}), and the Hub cache has only a part of "
                f"{self._source.repo}: {', '.join(missing)} is missing.",
                hint="Try again with a network; what was fetched is continued.",
            ) from error
        self._report.note(
            f"{self._endpoint} does not answer ({describe(error)}); "
            f"taking {self._source.repo} at {commit[:7]} from the Hub cache"
        )
        return resolution

    def _has(self, commit: str, file: SourceFile) -> bool:
        pointer = self._layout.snapshot(commit) / file.path
        return pointer.exists() and pointer.resolve() == (self._layout.blobs / etag_of(file)).resolve()

    def _drop_bad(self, files: list[SourceFile]) -> None:
        """Hash the blobs that are here; remove those that are not what was published."""
        present = [file for file in files if (self._layout.blobs / etag_of(file)).exists()]
        if not present:
            return
        self._report.begin(PrepareStage.VERIFYING, self._source.repo, sum(file.size for file in present))
        for file in present:
            if not matches(self._layout.blobs / etag_of(file), file, self._report):
                self._report.note(f"{file.path} in the Hub cache is damaged; fetching it anew")
                (self._layout.blobs / etag_of(file)).unlink()

    def _fetch(self, files: list[SourceFile], commit: str) -> None:
        if not files:
            return
        total = sum(file.size for file in files)
        done = sum(partial_size(self._layout, file) for file in files)
        self._report.begin(PrepareStage.DOWNLOADING, self._source.repo, total, done)
        fetcher = Fetcher(
            self._source.repo, commit, self._endpoint, self._layout, self._report, self._retries
        )
        pool = ThreadPoolExecutor(_PARALLEL, "download")
        try:
            for _ in pool.map(fetcher.fetch, files):
                pass
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a failure the process ends at once


def _source_file(sibling: RepoSibling) -> SourceFile:
    return SourceFile(
        path=sibling.rfilename,
        size=sibling.size or 0,
        sha256=sibling.lfs.sha256 if sibling.lfs is not None else "",
        git_sha1=sibling.blob_id or "" if sibling.lfs is None else "",
    )


def _cached_file(path: Path, name: str) -> SourceFile:
    """A file of the Hub cache: its blob's name is its hash, or it would not be checked but trusted."""
    etag = path.readlink().name
    large = len(etag) == _SHA256_DIGITS
    return SourceFile(
        path=name, size=path.stat().st_size, sha256=etag if large else "", git_sha1="" if large else etag
    )


def _missing_shards(resolution: Resolution, snapshot: Path) -> list[str]:
    index = snapshot / INDEX
    if resolution.format != "safetensors" or not index.exists():
        return []
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(named - {file.path for file in resolution.files})
