"""One entry as a file: a header that says whose KV cache it is, then the arrays.

Layout: a mark, length and CRC-32 of the header (32 bits each, little-endian), the header (msgpack), then each array at a
multiple of 64 bytes, with a CRC-32 of its own in the header. The file's name is a digest of the tokens, so that a file
under another's name is noticed too. Whatever is not exactly as it was written raises `DamagedError`: a wrong KV cache
would make a model say something that is nobody's.
"""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import msgspec
import numpy as np

from pensieved.engine.worker.digest import blake2b

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pensieved.engine.worker.prompt_cache.entry import Tokens

Array = TypeVar("Array")

SUFFIX = ".kv"
TEMPORARY = ".tmp"
_MARK = b"pensieved kv 001"
_LENGTHS = struct.Struct("<II")
_ALIGNMENT = 64
_LONGEST_HEADER = 64 * 1024**2
_LANES = 2
"""Threads that read a file: it lies in memory more often than not, and to copy and check it is work for more than one."""


class DamagedError(Exception):
    """The file is not what was written."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """One array. `kind` is its type in MLX, `offset` counts from the end of the header."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    crc: int


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Whose cache it is; see `Entry`. `tokens` are little-endian 32-bit ids."""

    fingerprint: str
    tokens: bytes
    start: int
    form: bytes
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(piece.nbytes for piece in self.pieces)


def file_name(tokens: Tokens, start: int) -> str:
    """The name of the entry for `tokens[start:]`."""
    return _name(tokens.astype("<u4").tobytes(), start)


def size_of(arrays: Sequence[np.ndarray], tokens: Tokens) -> int:
    """About how large a file will be; never less."""
    data = sum(_aligned(array.nbytes) for array in arrays)
    return data + tokens.nbytes + len(arrays) * 2 * _ALIGNMENT + 4096


def write_file(
    path: Path,
    *,
    fingerprint: str,
    tokens: Tokens,
    start: int,
    form: bytes,
    arrays: Sequence[np.ndarray],
    kinds: Sequence[str],
) -> None:
    """Write an entry durably, in one step. Raises OSError."""
    pieces = []
    offset = 0
    for array, kind in zip(arrays, kinds, strict=True):
        pieces.append(Piece(kind, array.shape, offset, array.nbytes, zlib.crc32(_raw(array))))
        offset += _aligned(array.nbytes)
    header = msgspec.msgpack.encode(
        Header(fingerprint, tokens.astype("<u4").tobytes(), start, form, tuple(pieces))
    )
    temporary = path.with_suffix(TEMPORARY)
    try:
        private = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(private, "wb") as file:
            file.write(_MARK + _LENGTHS.pack(len(header), zlib.crc32(header)) + header)
            for array in arrays:
                file.write(b"\0" * (_aligned(file.tell()) - file.tell()))
                file.write(_raw(array))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_header(path: Path, fingerprint: str) -> Header:
    """What a file of the model `fingerprint` holds.

    Raises:
        DamagedError: it is no such file, or not whole.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = _header(file, path)
    if header.fingerprint != fingerprint:
        raise DamagedError("it belongs to another model")
    return header


def read_file(
    path: Path, tokens: Tokens, start: int, taking: Callable[[], Callable[[np.ndarray, Piece], Array]]
) -> tuple[Header, list[Array]]:
    """The arrays of the entry for `tokens[start:]`.

    Args:
        path: the file.
        tokens: of the entry.
        start: of the entry.
        taking: makes, for each thread that reads, what makes an array of its bytes. That must copy them: the next ones are
            read into the same memory, which is near then.

    Raises:
        DamagedError: they are not what was written for these tokens.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = _header(file, path)
        if header.start != start or header.tokens != tokens.astype("<u4").tobytes():
            raise DamagedError("it is of other tokens")
        begin = file.tell()
    each = -(-len(header.pieces) // _LANES) or 1
    shares = [header.pieces[first : first + each] for first in range(0, len(header.pieces), each)]
    with ThreadPoolExecutor(_LANES, "prompt cache lane") as lanes:
        read = lanes.map(lambda share: _pieces(path, begin, share, taking()), shares)
        return header, [array for arrays in read for array in arrays]


def _pieces(
    path: Path, begin: int, pieces: Sequence[Piece], take: Callable[[np.ndarray, Piece], Array]
) -> list[Array]:
    room = np.empty(max(piece.nbytes for piece in pieces), np.uint8)
    arrays = []
    with path.open("rb") as file:
        for piece in pieces:
            raw = room[: piece.nbytes]
            file.seek(begin + piece.offset)
            if file.readinto(_raw(raw)) != raw.size:
                raise DamagedError("it ends early")
            if zlib.crc32(_raw(raw)) != piece.crc:
                raise DamagedError("an array has changed")
            arrays.append(take(raw, piece))
    return arrays


def _header(file: BinaryIO, path: Path) -> Header:
    """The header; `file` stands at the first array afterwards."""
    head = file.read(len(_MARK) + _LENGTHS.size)
    if len(head) < len(_MARK) + _LENGTHS.size or not head.startswith(_MARK):
        raise DamagedError("it has no such beginning")
    length, crc = _LENGTHS.unpack_from(head, len(_MARK))
    body = file.read(length) if length <= _LONGEST_HEADER else b""
    if len(body) < length or zlib.crc32(body) != crc:
        raise DamagedError("its header has changed")
    try:
        header = msgspec.msgpack.decode(body, type=Header)
    except msgspec.DecodeError as error:
        raise DamagedError(f"its header is not understood: {error}") from error
    begin = file.seek(_aligned(file.tell()))
    end = max((piece.offset + piece.nbytes for piece in header.pieces), default=0)
    if path.stem != _name(header.tokens, header.start) or os.fstat(file.fileno()).st_size != begin + end:
        raise DamagedError("its name or its size does not fit its header")
    return header


def _name(tokens: bytes, start: int) -> str:
    return blake2b(tokens, digest_size=16, salt=start.to_bytes(8, "little")).hexdigest()


def _raw(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy's stub


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
