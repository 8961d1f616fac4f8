"""Fetching one file of the Hub into the cache that every Hugging Face tool shares, continuing what was begun.

huggingface_hub's own download starts each file anew in a fresh process: its partial file has a random name
and is deleted on failure. A model takes hours on a slow line and a laptop sleeps, so this keeps
``blobs/ETAG.incomplete``, asks for the rest with a Range header, and only a file of the right hash gets the
name ``blobs/ETAG``. The lock on it is huggingface_hub's own, so that its tools and we never write the same
file. Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from filelock import FileLock
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are exported lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from pensieved.backoff import Backoff
from pensieved.errors import IntegrityError
from pensieved.models.hashing import git_sha1_of, sha256_of
from pensieved.models.preparer.hub_errors import (
    NETWORK_ERRORS,
    describe,
    is_transient,
    retry_after,
    translate,
)

if TYPE_CHECKING:
    from pensieved.models.manifest import SourceFile
    from pensieved.models.preparer.report import Reporter
    from pensieved.models.wire import Retries

_TIMEOUT = httpx2.Timeout(30.0)
_INTEGRITY_ATTEMPTS = 3
_LONGEST_SERVER_WAIT = 120.0
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416


class CacheLayout:
    """Where a repository's files lie in the Hub cache."""

    def __init__(self, cache: Path, repo: str) -> None:
        folder = repo_folder_name(repo_id=repo, repo_type="model")
        self.blobs = cache / folder / "blobs"
        self.refs = cache / folder / "refs"
        self._snapshots = cache / folder / "snapshots"
        self._locks = cache / ".locks" / folder

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit."""
        return self._snapshots / commit

    def lock(self, etag: str) -> FileLock:
        """The lock of one blob."""
        self._locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self._locks / f"{etag}.lock")

    def remember(self, revision: str, commit: str) -> None:
        """Note which commit a branch or tag points to, for when there is no network."""
        if revision != commit:
            ref = self.refs / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
            temporary.write_text(commit, encoding="utf-8")
            temporary.replace(ref)

    def point(self, commit: str, path: str, etag: str) -> None:
        """Make `path` of the commit's snapshot the blob `etag`, where it is not already."""
        pointer = self.snapshot(commit) / path
        blob = self.blobs / etag
        if pointer.exists() and pointer.resolve() == blob.resolve():
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        temporary = pointer.with_name(f"{pointer.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
        temporary.replace(pointer)


@dataclass(frozen=True)
class Fetcher:
    """Fetches files of one repository at one commit."""

    repo: str
    commit: str
    endpoint: str
    layout: CacheLayout
    report: Reporter
    retries: Retries

    def fetch(self, file: SourceFile) -> None:
        """Have the blob of `file`, of the right hash, and point the snapshot to it.

        Raises:
            IntegrityError: the Hub sent wrong bytes several times over.
            PensievedError: the Hub refused or did not answer.
        """
        etag = etag_of(file)
        with self.layout.lock(etag):
            for _ in range(_INTEGRITY_ATTEMPTS):
                if (self.layout.blobs / etag).exists() or self._fetch_blob(file, etag):
                    self.layout.point(self.commit, file.path, etag)
                    return
                self.report.note(f"{file.path} came with wrong bytes from {self.endpoint}; fetching it anew")
                self.report.advance(-file.size)
        raise IntegrityError(
            f"{file.path} of {self.repo} has the wrong hash, after {_INTEGRITY_ATTEMPTS} downloads.",
            hint=f"Is there a proxy or a mirror between here and {self.endpoint} that changes files?",
        )

    def _fetch_blob(self, file: SourceFile, etag: str) -> bool:
        """Whether the bytes that were fetched are right."""
        self.layout.blobs.mkdir(parents=True, exist_ok=True)
        partial = self.layout.blobs / f"{etag}.incomplete"
        self._complete(file, partial)
        if not matches(partial, file):
            partial.unlink()
            return False
        partial.replace(self.layout.blobs / etag)
        return True

    def _complete(self, file: SourceFile, partial: Path) -> None:
        """Append to `partial` until it has its size; gives up when nothing comes any more."""
        backoff = Backoff(self.retries.first_delay, self.retries.longest_delay)
        failures = 0
        while (have := _size(partial)) < file.size or not partial.exists():
            try:
                self._append(file, partial, have)
                problem: Exception = httpx2.RemoteProtocolError("the answer ended early")
            except NETWORK_ERRORS as error:
                problem = error
            if _size(partial) > have:
                failures = 0
                backoff.reset()
            if _size(partial) >= file.size and partial.exists():
                return
            failures += 1
            if not is_transient(problem) or failures >= self.retries.attempts:
                raise translate(problem, self.repo, self.commit, self.endpoint) from problem
            delay = max(backoff.next(), min(retry_after(problem) or 0.0, _LONGEST_SERVER_WAIT))
            self.report.note(f"{file.path}: {describe(problem)}; trying again in {delay:.1f} s")
            time.sleep(delay)

    def _append(self, file: SourceFile, partial: Path, have: int) -> None:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        url = hf_hub_url(self.repo, file.path, revision=self.commit, endpoint=self.endpoint)
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                partial.unlink(missing_ok=True)
                self.report.advance(-have)
                return
            hf_raise_for_status(response)
            resumed = response.status_code == _PARTIAL_CONTENT
            if have and not resumed:
                self.report.advance(-have)
            with partial.open("ab" if resumed else "wb") as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    self.report.advance(len(chunk))


def etag_of(file: SourceFile) -> str:
    """The name of the file's blob in the Hub cache."""
    return file.sha256 or file.git_sha1


def matches(path: Path, file: SourceFile, report: Reporter | None = None) -> bool:
    """Whether the file at `path` has the published size and hash."""
    on_bytes = report.advance if report is not None else None
    with contextlib.suppress(OSError):
        if path.stat().st_size != file.size:
            return False
        if file.sha256:
            return sha256_of(path, on_bytes) == file.sha256
        return git_sha1_of(path, on_bytes) == file.git_sha1
    return False


def partial_size(layout: CacheLayout, file: SourceFile) -> int:
    """Bytes of the file that are here already, whole or in part."""
    blob = layout.blobs / etag_of(file)
    return file.size if blob.exists() else min(file.size, _size(blob.with_name(f"{blob.name}.incomplete")))


def hub_cache() -> Path:
    """The Hub cache of this user, after HF_HUB_CACHE and HF_HOME."""
    return Path(constants.HF_HUB_CACHE)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
