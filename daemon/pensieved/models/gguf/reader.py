"""A GGUF model as one mapping of tensors, whether it is one file or split into parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, dequantize

from pensieved.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gguf import ReaderTensor
    from numpy.typing import NDArray

_ROW_BYTES = 64 * 1024**2  # dequantized at a time


class GgufModel:
    """Metadata and tensors of a model, memory-mapped: nothing is read before it is asked for.

    Args:
        paths: the file, or all parts of a split one in order. Metadata stands in the first.
        name: the model's name, for errors.
    """

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self.name = name
        try:
            readers = [GGUFReader(path) for path in paths]
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise UnsupportedModelError(
                f"{name}: {paths[0].name} is not a readable GGUF file: {error}."
            ) from error
        self._fields = readers[0].fields
        self._tensors: dict[str, ReaderTensor] = {t.name: t for reader in readers for t in reader.tensors}
        self.architecture = str(self.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value as Python knows it: number, string, bool or list."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def setting(self, key: str, default: Any = None) -> Any:
        """A metadata value of this architecture: ``block_count`` is ``llama.block_count``."""
        return self.get(f"{self.architecture}.{key}", default)

    def need(self, key: str) -> Any:
        """A setting that the model cannot be without. Raises UnsupportedModelError."""
        value = self.setting(key)
        if value is None:
            raise UnsupportedModelError(f"{self.name} has no {self.architecture}.{key} in its GGUF metadata.")
        return value

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors

    @property
    def tensor_names(self) -> list[str]:
        """All tensors, in the file's order."""
        return list(self._tensors)

    @property
    def float_type(self) -> str | None:
        """float32, float16 or bfloat16 if its matrices are stored as such; None if they are quantized."""
        kinds = {t.tensor_type for t in self._tensors.values() if len(t.shape) > 1}
        whole = {
            GGMLQuantizationType.F32: "float32",
            GGMLQuantizationType.F16: "float16",
            GGMLQuantizationType.BF16: "bfloat16",
        }
        names = {whole.get(kind) for kind in kinds}
        return names.pop() if len(names) == 1 else None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(int(t.n_elements) for t in self._tensors.values())

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape in the order of numpy: rows first."""
        return tuple(int(n) for n in reversed(self._tensors[tensor].shape))

    def rows(self, tensor: str) -> Iterator[NDArray[np.float32]]:
        """The tensor as float32, some rows at a time: large embeddings need not fit in memory twice."""
        stored = self._tensors[tensor]
        shape = self.shape(tensor)
        data = stored.data if len(shape) > 1 else stored.data.reshape(1, -1)
        count = max(1, _ROW_BYTES // (4 * max(1, shape[-1])))
        for start in range(0, data.shape[0], count):
            yield self._floats(data[start : start + count], stored.tensor_type).reshape(-1, *shape[1:])

    def array(self, tensor: str) -> NDArray[np.float32]:
        """The whole tensor as float32."""
        return np.concatenate(list(self.rows(tensor))).reshape(self.shape(tensor))

    def _floats(self, data: NDArray[Any], kind: GGMLQuantizationType) -> NDArray[np.float32]:
        try:
            return np.asarray(dequantize(data, kind), dtype=np.float32)
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"{self.name} has tensors of type {kind.name}, which cannot be read."
            ) from error
