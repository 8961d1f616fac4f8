"""mlx-lm's caches as plain arrays, and back.

What lies in the cache, and on disk, are arrays and a form that says how they make caches. Plain KV caches have the empty form:
keys and values of each layer in turn, which can be cut and joined along the tokens. Any other's form is the skeleton of
its state, as mlx-lm itself defines it, with numbers in place of the arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import msgspec
from mlx_lm.models import cache as library
from mlx_lm.models.cache import KVCache, make_prompt_cache

from pensieved.engine.worker.prompt_cache.entry import TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.engine.worker.running import Snapshot

PLAIN = b""


class FormError(ValueError):
    """These arrays do not make a cache."""


class _Place(msgspec.Struct, frozen=True, array_like=True, tag="array"):
    """Stands for an array in a skeleton."""

    index: int


class _Cache(msgspec.Struct, frozen=True, array_like=True, tag="cache"):
    """One layer's cache: its class in mlx-lm, and its state."""

    kind: str
    state: Any


def is_plain(model: Any) -> bool:
    """Whether all layers of `model` have plain KV caches."""
    return all(type(layer) is KVCache for layer in make_prompt_cache(model))


def taken_apart(snapshot: Snapshot, *, plain: bool) -> tuple[bytes, list[mx.array]]:
    """Form and arrays of a snapshot."""
    if plain:
        return PLAIN, [array for layer in snapshot for array in (layer.keys, layer.values)]
    arrays: list[mx.array] = []
    skeleton = [_Cache(type(layer).__name__, _stripped(layer.state, arrays)) for layer in snapshot]
    return msgspec.msgpack.encode(skeleton), [mx.contiguous(array) for array in arrays]


def put_together(form: bytes, arrays: Sequence[mx.array]) -> Snapshot:
    """The caches; new ones each time.

    Raises:
        FormError: they are none of mlx-lm's.
    """
    if form == PLAIN:
        return [_plain_layer(*arrays[at : at + 2]) for at in range(0, len(arrays), 2)]
    try:
        skeleton = msgspec.msgpack.decode(form, type=list[_Cache])
        return [_class(each.kind).from_state(_filled(each.state, arrays)) for each in skeleton]
    except (msgspec.DecodeError, IndexError, TypeError, ValueError) as error:
        raise FormError(str(error)) from error


def joined(pieces: Sequence[tuple[Sequence[mx.array], int, int]]) -> list[mx.array]:
    """Arrays of plain caches one after the other: of each piece, the tokens from one position to another."""
    parts = [
        [array if (first, last) == (0, array.shape[TOKENS]) else array[:, :, first:last] for array in arrays]
        for arrays, first, last in pieces
    ]
    if len(parts) == 1:
        return parts[0]
    return [mx.concatenate(list(each), axis=TOKENS) for each in zip(*parts, strict=True)]


def _plain_layer(keys: mx.array, values: mx.array) -> Any:
    layer: Any = KVCache()  # type: ignore[no-untyped-call]  # mlx-lm has no types
    layer.state = keys, values, keys.shape[TOKENS]
    return layer


def _stripped(state: Any, arrays: list[mx.array]) -> Any:
    """`state` with places instead of arrays, which are added to `arrays`."""
    if isinstance(state, mx.array):
        arrays.append(state)
        return _Place(len(arrays) - 1)
    if isinstance(state, list | tuple):
        return [_stripped(item, arrays) for item in state]
    return state


def _filled(state: Any, arrays: Sequence[mx.array]) -> Any:
    """The reverse of `_stripped`; decoded, a place is the list of its tag and its index."""
    if not isinstance(state, list):
        return state
    if len(state) == len(("array", 0)) and state[0] == "array" and isinstance(state[1], int):
        return arrays[state[1]]
    return [_filled(item, arrays) for item in state]


def _class(name: str) -> Any:
    found = getattr(library, name, None)
    if not isinstance(found, type) or not hasattr(found, "from_state"):
        raise FormError(f"mlx-lm has no cache {name!r}.")
    return found
