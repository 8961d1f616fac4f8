"""Signatures of thinking blocks, so that reasoning which comes back is known to be the model's own.

A signature is an HMAC-SHA256 over the block's text, with a key that is made once and kept in a file only its
owner can read: blocks stay valid over restarts. It names its key, so three cases can be told apart: ours and
right; ours and wrong, which is an error, as it is with Anthropic; and another's, from the cloud or from a daemon
whose key is gone, which is no error, or no conversation could move here from there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import threading
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger()

_PREFIX = "pensieved."
_KEY_BYTES = 32
_NAME_BYTES = 6


class Origin(StrEnum):
    """Where a returned thinking block comes from."""

    OURS = "ours"
    FOREIGN = "foreign"
    FORGED = "forged"  # the signature names our key, and is not of this text


class Signer:
    """Signs and checks with the key in `path`, made at the first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._key: bytes | None = None

    def sign(self, text: str) -> str:
        """The signature of a block with this text."""
        key = self._secret()
        return f"{_name(key)}.{_encoded(hmac.digest(key, text.encode(), 'sha256'))}"

    def origin(self, text: str, signature: str) -> Origin:
        """Whose block this is."""
        if not signature.startswith(_PREFIX) or not signature.startswith(f"{_name(self._secret())}."):
            return Origin.FOREIGN
        right = hmac.compare_digest(self.sign(text).encode(), signature.encode())
        return Origin.OURS if right else Origin.FORGED

    def _secret(self) -> bytes:
        with self._lock:
            if self._key is None:
                self._key = _load(self._path)
            return self._key


def _name(key: bytes) -> str:
    return _PREFIX + _encoded(hashlib.sha256(b"name" + key).digest()[:_NAME_BYTES])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _load(path: Path) -> bytes:
    """The key; one that cannot be kept lasts as long as this process."""
    try:
        key, damaged = _read(path)
        return key or _create(path, damaged=damaged)
    except OSError as error:
        log.warning("thinking blocks cannot be checked after a restart", path=str(path), reason=str(error))
        return secrets.token_bytes(_KEY_BYTES)


def _read(path: Path) -> tuple[bytes | None, bool]:
    """The key, if the file holds one, and whether it holds something else."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None, False
    return (key, False) if len(key) == _KEY_BYTES else (None, True)


def _create(path: Path, *, damaged: bool) -> bytes:
    """Write a key completely before it has its name; of two daemons that do so at once, one wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        if damaged:
            temporary.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    key, _ = _read(path)
    if key is None:
        raise OSError(f"{path} does not keep what was written to it")
    return key
