"""Writing safetensors as the tensors come, so that a model need not fit in memory to be converted.

Format: https://huggingface.co/docs/safetensors/index#format (8 bytes of length, a JSON header, the data).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
_SHARD_BYTES = 5 * 1024**3
_ALIGNMENT = 8


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: `chunks` yields its float32 values, row by row, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[NDArray[np.float32]]]

    def nbytes(self, dtype: str) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * DTYPES[dtype][1]


def write_safetensors(
    folder: Path,
    tensors: Sequence[Tensor],
    dtype: str,
    on_bytes: Callable[[int], object],
    shard: int = _SHARD_BYTES,
) -> None:
    """Write model.safetensors, or numbered shards and their index, as `dtype`."""
    shards = list(_shards(tensors, dtype, shard))
    weight_map: dict[str, str] = {}
    for number, part in enumerate(shards, start=1):
        name = (
            "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        )
        _write(folder / name, part, dtype, on_bytes)
        weight_map |= {tensor.name: name for tensor in part}
    if len(shards) > 1:
        total = sum(tensor.nbytes(dtype) for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _shards(tensors: Iterable[Tensor], dtype: str, limit: int) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if part and size + tensor.nbytes(dtype) > limit:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.nbytes(dtype)
    yield part


def _write(path: Path, tensors: Sequence[Tensor], dtype: str, on_bytes: Callable[[int], object]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.nbytes(dtype)
        header[tensor.name] = {
            "dtype": DTYPES[dtype][0],
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for chunk in tensor.chunks():
                data = encode(chunk, dtype)
                file.write(data)
                on_bytes(len(data))


def encode(values: NDArray[np.float32], dtype: str) -> bytes:
    """The values as little-endian `dtype`; bfloat16 is rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2").tobytes()
    return np.ascontiguousarray(values).astype("<f4" if dtype == "float32" else "<f2").tobytes()
