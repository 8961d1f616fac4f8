"""The KV caches of all requests in mlx-lm's own batch caches, for models that a flat pass does not fit.

Sliding windows, state-space layers and whatever else a model keeps: mlx-lm knows how to batch it. Decoding is one pass,
each group of prompts another. Prompts of one group are of the same length, so that nothing needs padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from pensieved.engine.worker.loading import UnloadableError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pensieved.engine.worker.running import Snapshot


class LibraryPrompt:
    """A group of prompts while it is computed."""

    def __init__(self, caches: list[Any]) -> None:
        self.caches = caches


class Library:
    """Runs passes; a `Runner`.

    Args:
        model: an mlx-lm model whose caches can be batched.

    Raises:
        UnloadableError: they cannot.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._caches: list[Any] = []
        self.width = 0
        for layer in make_prompt_cache(model):
            if not hasattr(layer, "merge"):
                raise UnloadableError(
                    f"Requests to this model cannot run together: mlx-lm cannot batch its {type(layer).__name__}."
                    " Use another model."
                )

    def open(self, lengths: Sequence[int], prefix: Snapshot | None = None, cached: int = 0) -> LibraryPrompt:
        """See `Flat.open`."""
        del cached  # the prefix knows
        rows = [make_prompt_cache(self._model) for _ in lengths] if prefix is None else [prefix]
        return LibraryPrompt([layers[0].merge(list(layers)) for layers in zip(*rows, strict=True)])

    def waits(self, work: Sequence[tuple[LibraryPrompt, int]]) -> bool:  # noqa: ARG002  # others have reason to ask
        """See `Flat.waits`: never."""
        return False

    def pauses(self, work: Sequence[tuple[LibraryPrompt, int]]) -> bool:  # noqa: ARG002  # others have reason to ask
        """See `Flat.pauses`: never."""
        return False

    def run(
        self,
        tokens: mx.array | None,
        work: Sequence[tuple[LibraryPrompt, Sequence[Sequence[int]]]],
        *,
        in_parts: bool = False,
        ends: Collection[int] = (),
    ) -> tuple[mx.array | None, list[list[mx.array]]]:
        """See `Flat.run`; the rows of a group bring equally many ids, and never their last."""
        del in_parts, ends  # mlx-lm's caches have room for more than they are asked
        logits = None
        if tokens is not None:
            logits = self._model(tokens[:, None], cache=self._caches)[:, -1]
        rest: list[list[mx.array]] = [[]]
        for prompt, chunk in work:
            self._model(mx.array([list(row) for row in chunk]), cache=prompt.caches)
            rest += [_arrays(layer) for layer in prompt.caches]
        return logits, rest

    def arrange(self, keep: Sequence[int], coming: Sequence[tuple[LibraryPrompt, int, int]]) -> list[int]:
        """See `Flat.arrange`."""
        if not keep:
            self._caches = []
        elif len(keep) < self.width:
            for layer in self._caches:
                layer.filter(list(keep))
        for prompt, rows in _by_group(coming):
            self._join(prompt, rows)
        self.width = len(keep) + len(coming)
        return list(range(self.width))

    def snapshot(self, place: int, start: int = 0, end: int | None = None) -> Snapshot:
        """See `Flat.snapshot`; with a `start` or an `end`, of a model whose caches are plain KV caches."""
        return [_part(layer.extract(place), start, end) for layer in self._caches]

    def prompt_snapshot(
        self, prompt: LibraryPrompt, row: int, start: int = 0, end: int | None = None
    ) -> Snapshot:
        """See `Flat.prompt_snapshot`."""
        return [_part(layer.extract(row), start, end) for layer in prompt.caches]

    def _join(self, prompt: LibraryPrompt, rows: list[int]) -> None:
        for place, layer in enumerate(prompt.caches):
            layer.filter(rows)
            if len(self._caches) <= place:
                self._caches.append(layer)
            else:
                self._caches[place].extend(layer)


def _by_group(
    coming: Sequence[tuple[LibraryPrompt, int, int]],
) -> list[tuple[LibraryPrompt, list[int]]]:
    groups: list[tuple[LibraryPrompt, list[int]]] = []
    for prompt, row, _ in coming:
        if not groups or groups[-1][0] is not prompt:
            groups.append((prompt, []))
        groups[-1][1].append(row)
    return groups


def _part(layer: Any, start: int, end: int | None) -> Any:
    """A plain KV cache without its first tokens, or its last; any other as it is."""
    if start or end is not None:
        last = layer.offset if end is None else end
        layer.keys, layer.values = (
            mx.contiguous(each[:, :, start:last]) for each in (layer.keys, layer.values)
        )
        layer.offset = last - start
    return layer


def _arrays(layer: Any) -> list[mx.array]:
    leaves: Any = tree_flatten([layer.state])
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]
