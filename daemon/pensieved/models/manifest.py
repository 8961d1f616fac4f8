"""What a prepared folder is and must contain: the file that every later check is made against.

Stored as TOML inside the folder, so that a person can read where a model came from. Its own checksum stands
in it: a manifest that was changed by anything but us is worth nothing, and the model is prepared again.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from typing import TYPE_CHECKING, Literal

import msgspec
import tomli_w

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "manifest.toml"
SCHEMA = 1

Backend = Literal["cpu", "metal", "cuda"]


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of the prepared folder.

    `origin`: "linked" is a symbolic link to the source's file of that name, "copied" has its bytes, "built" was
    made here.
    """

    path: str
    size: int
    sha256: str
    mtime_ns: int
    origin: Literal["linked", "copied", "built"]


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of the source, as its publisher describes it (`mtime_ns` only for files on this machine).

    Large files on the Hub have a sha256, small ones the hash of their git blob.
    """

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""
    mtime_ns: int = 0


class TokenizerFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What mlx-lm infers from vocabulary and chat template; empty strings where the model has no such thing."""

    has_chat_template: bool = False
    think_start: str = ""
    think_end: str = ""
    tool_parser: str = ""
    tool_call_start: str = ""
    tool_call_end: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared model. Sizes in bytes; `context_length` in tokens; `created` in ISO 8601."""

    name: str
    source: str
    revision: str
    commit: str
    format: Literal["safetensors", "gguf"]
    quantization: str
    effective_quantization: str
    backend: Backend
    model_type: str
    architecture: str
    context_length: int
    eos_token_ids: tuple[int, ...]
    parameters: int
    weight_bytes: int
    tokenizer: TokenizerFacts
    created: str
    versions: dict[str, str]
    files: tuple[ModelFile, ...]
    sources: tuple[SourceFile, ...]
    trust_remote_code: bool = False
    schema: int = SCHEMA
    checksum: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files, linked ones included."""
        return sum(file.size for file in self.files)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a prepared folder, or None where it is missing, damaged or of another schema."""
    try:
        manifest = msgspec.convert(
            tomllib.loads((folder / FILE_NAME).read_text(encoding="utf-8")), Manifest, strict=True
        )
    except (OSError, ValueError):  # msgspec's, tomllib's and Unicode's errors are ValueErrors
        return None
    intact = manifest.schema == SCHEMA and manifest.checksum == _checksum(manifest)
    return manifest if intact else None


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write atomically and durably; returns the manifest with its checksum."""
    sealed = msgspec.structs.replace(manifest, checksum=_checksum(manifest))
    path = folder / FILE_NAME
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        tomli_w.dump(msgspec.to_builtins(sealed), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return sealed


def _checksum(manifest: Manifest) -> str:
    bare = msgspec.structs.replace(manifest, checksum="")
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
