"""One forward pass for everybody: rows that decode and chunks of prompts, through mlx-lm's own model code.

Each token becomes a row of length one: a model's code is written for that, since a decode step of a batch looks so.
All that lies between tokens is attention, and there every model calls one function of mlx-lm's, which is replaced here
by one that knows which row belongs to whom. So the weights are read once for a step, whatever it consists of, and a
chunk of prefill costs a running stream its arithmetic, not another pass over the weights.

This fits models whose caches are all plain KV caches. Whether it fits a given one is found out by trying (`fitting`).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx
from mlx_lm.models import base
from mlx_lm.models.cache import make_prompt_cache

from pensieved.engine.worker.passes.attention import Attention
from pensieved.engine.worker.passes.cpu.device import on_cpu
from pensieved.engine.worker.passes.cpu.rotary import Angles, share_angles
from pensieved.engine.worker.passes.kernels import attention
from pensieved.engine.worker.passes.modules import replace_function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.passes.shelf import Cells

_ATTENTION = "scaled_dot_product_attention"


class UnfitError(Exception):
    """The model does something between tokens that a flat pass does not know of."""


class Part(Protocol):
    """Some rows of a pass that belong together."""

    @property
    def rows(self) -> int:
        """How many."""

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Store the rows' new keys and values, (rows, heads, 1, width)."""

    def attend(self, layer: int, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Attention of the rows' queries, (rows, heads, 1, width), to what belongs to each."""


class Decoding:
    """The rows of one shelf, one token each, at their own positions."""

    def __init__(self, cells: Cells, offsets: mx.array, shapes: Shapes) -> None:
        self.cells = cells
        self.rows = cells.rows
        self._offsets = offsets
        self._place = offsets[:, None, None, None]
        self._attention = Attention(mx.arange(cells.capacity) <= self._place, shapes)

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """See `Part`."""
        for arrays, new in ((self.cells.keys, keys), (self.cells.values, values)):
            place = mx.broadcast_to(self._place, new.shape)
            arrays[layer] = mx.put_along_axis(arrays[layer], place, new.astype(arrays[layer].dtype), axis=2)

    def attend(self, layer: int, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """See `Part`."""
        keys, values = self.cells.keys[layer], self.cells.values[layer]
        if sinks is None and attention.suits(queries, keys, values):
            return attention.attend(queries, keys, values, self._offsets, scale)
        return self._attention(queries, keys, values, scale, sinks)


class Prompting:
    """A chunk of a group of prompts: `length` tokens of each of `cells`' rows, from position `start` on."""

    def __init__(self, cells: Cells, start: int, length: int, shapes: Shapes) -> None:
        self.cells = cells
        self.rows = cells.rows * length
        self._start = start
        self._reach = start + length
        self._attention = Attention("causal", shapes)

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """See `Part`."""
        for arrays, new in ((self.cells.keys, keys), (self.cells.values, values)):
            arrays[layer] = self._written(arrays[layer], self._by_sequence(new).astype(arrays[layer].dtype))

    def attend(self, layer: int, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """See `Part`. Padding comes last in each row, where nothing that counts can see it."""
        out = self._attention(
            self._by_sequence(queries),
            self.cells.keys[layer][:, :, : self._reach],
            self.cells.values[layer][:, :, : self._reach],
            scale,
            sinks,
        )
        _, heads, _, width = out.shape
        return out.transpose(0, 2, 1, 3).reshape(self.rows, heads, 1, width)

    def _written(self, array: mx.array, new: mx.array) -> mx.array:
        if new.shape == array.shape:
            # MLX would take it as it is: a view, which keeps all that the layer has computed with it.
            return mx.contiguous(new)
        array[:, :, self._start : self._reach] = new
        return array

    def _by_sequence(self, flat: mx.array) -> mx.array:
        """(rows of the pass, heads, 1, width) as (sequences, heads, tokens, width)."""
        _, heads, _, width = flat.shape
        return flat.reshape(self.cells.rows, -1, heads, width).transpose(0, 2, 1, 3)


class PromptingAt(Prompting):
    """The same from a position that only the device knows, so that the pass is the same for any position.

    It looks at the first `reach` positions and masks what lies beyond each token.
    """

    def __init__(self, cells: Cells, positions: mx.array, reach: int, shapes: Shapes) -> None:
        super().__init__(cells, 0, positions.size, shapes)
        self._at = positions[:1]
        self._reach = reach
        self._attention = Attention(mx.arange(reach) <= positions[:, None], shapes)

    def _written(self, array: mx.array, new: mx.array) -> mx.array:
        return mx.slice_update(array, new, self._at, (2,))


class LayerView:
    """What a model's code sees as the cache of one layer."""

    def __init__(self, layer: int, parts: Sequence[Part], offset: mx.array) -> None:
        self.offset = offset
        self._layer = layer
        self._parts = parts
        self._new: tuple[mx.array, mx.array] | None = None

    def make_mask(self, _tokens: int, *, return_array: bool = False, window_size: int | None = None) -> None:
        """No mask: who sees what is decided in `attend`."""
        if return_array or window_size is not None:
            raise UnfitError("The model wants a mask of its own.")

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take the new keys and values; `attend` expects to get the very same back."""
        row = 0
        for part in self._parts:
            part.write(self._layer, keys[row : row + part.rows], values[row : row + part.rows])
            row += part.rows
        self._new = keys, values
        return self._new

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, sinks: mx.array | None
    ) -> mx.array:
        """Attention of all rows of the pass."""
        if self._new is None or keys is not self._new[0] or values is not self._new[1]:
            raise UnfitError("The model attends to something else than its cache.")
        self._new = None  # written: a pass that pauses would hold those of all its layers
        found, row = [], 0
        for part in self._parts:
            found.append(part.attend(self._layer, queries[row : row + part.rows], scale, sinks))
            row += part.rows
        return found[0] if len(found) == 1 else mx.concatenate(found, axis=0)


def route_attention(model: Any) -> None:
    """Let the attention of `model`'s layers ask the cache, where that is a `LayerView`."""
    replace_function(model, _ATTENTION, base.scaled_dot_product_attention, _attention)


def _attention(  # noqa: PLR0917  mlx-lm's own signature
    queries: mx.array,
    keys: Any,
    values: Any,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    if not isinstance(cache, LayerView):
        plain: mx.array = base.scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
        return plain
    if mask is not None:
        raise UnfitError("The model wants a mask of its own.")
    return cache.attend(queries, keys, values, scale, sinks)


class Narrowing:
    """Has the head of a model work on some rows only: the logits of most of a prompt are of no use.

    The backbone (`model.model` in mlx-lm's models) is made an instance of a subclass of its class; where there is none,
    the head computes for all rows, which is merely slower. A pass that pauses has rows of its own, as greenlets have contexts.
    """

    def __init__(self, model: Any) -> None:
        self._rows: ContextVar[slice | mx.array | None] = ContextVar(
            "rows that the head works on", default=None
        )
        outer = getattr(model, "language_model", model)
        backbone = getattr(outer, "model", None)
        if backbone is not None and callable(backbone):
            backbone.__class__ = self._subclass(type(backbone))

    @contextmanager
    def to(self, rows: slice | mx.array) -> Iterator[Callable[[mx.array], mx.array]]:
        """In here the head works on these rows; what this gives takes them from its logits, if it did not know how."""
        before = self._rows.set(rows)
        try:
            yield lambda logits: logits if self._rows.get() is None else logits[rows]
        finally:
            self._rows.reset(before)

    def _subclass(self, backbone: type) -> type:
        narrowing = self._rows

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            out = backbone.__call__(self, *args, **kwargs)
            rows = narrowing.get()
            if rows is None or not isinstance(out, mx.array):
                return out
            narrowing.set(None)  # done
            return out[rows]

        return type(backbone.__name__, (backbone,), {"__call__": call, "__module__": backbone.__module__})


class Adapted:
    """A model whose own code makes flat passes.

    Args:
        model: changed in place; where it is called otherwise, it computes what it always did.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._layers = len(make_prompt_cache(model))
        self._narrowing = Narrowing(model)
        self._angles = share_angles(model) if on_cpu() else Angles()
        route_attention(model)

    def forward(
        self,
        parts: Sequence[Part],
        *,
        tokens: mx.array,
        offsets: mx.array,
        rows: int,
        more: Sequence[int] = (),
    ) -> mx.array:
        """One pass; the logits of some rows, (those, vocabulary).

        Args:
            parts: to whom the rows belong, in order.
            tokens: ids, (all rows,).
            offsets: position of each, (all rows,).
            rows: so many of the first ones are wanted,
            more: and these. If there are none at all, the result must not be evaluated.
        """
        wanted = mx.array([*range(rows), *more]) if more else slice(rows or 1)
        views = [LayerView(layer, parts, offsets) for layer in range(self._layers)]
        with self._angles.of(offsets), self._narrowing.to(wanted) as narrowed:
            return narrowed(self._model(tokens[:, None], cache=views))[:, -1]
