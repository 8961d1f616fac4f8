"""Attention of some rows of a pass, by whatever computes it best here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from pensieved.engine.worker.passes.cpu import attention as cpu_attention
from pensieved.engine.worker.passes.cpu.meanwhile import is_computed_meanwhile
from pensieved.engine.worker.passes.kernels.device import on_cuda

if TYPE_CHECKING:
    from pensieved.engine.worker.passes.shapes import Shapes


class Attention:
    """Attention of rows that see what a mask says, in all layers of a pass.

    Args:
        mask: true where a query sees a position, to be broadcast to (sequences, heads, tokens, positions); or "causal": the
            tokens are the last positions, and each sees those up to its own.
        shapes: the device's policy.
    """

    def __init__(self, mask: mx.array | str, shapes: Shapes) -> None:
        self._mask = mask
        self._shapes = shapes
        self._added: mx.array | None = None  # the mask as what is added to scores, once it is needed

    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, sinks: mx.array | None
    ) -> mx.array:
        """(sequences, heads, tokens, width) of the queries; see `mx.fast.scaled_dot_product_attention`."""
        if sinks is None and cpu_attention.suits(queries.dtype, keys.dtype, values.dtype):
            if self._added is None:
                self._added = cpu_attention.hiding(self._seen(queries.shape[2]))
            many = self._shapes.is_at_once(queries.shape[0] * queries.shape[2], keys.shape[2])
            at_once = many or is_computed_meanwhile()
            return cpu_attention.attend(queries, keys, values, scale, self._added, at_once=at_once)
        mask = self._for_cudnn(queries.dtype) if on_cuda() else self._mask
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )

    def _for_cudnn(self, kind: mx.Dtype) -> mx.array | str:
        """The mask as something to be added to scores: cuDNN's attention takes no other.

        MLX would make that of it, too, but for each head by itself: 1 GB where 32 heads of 2,048 tokens look at 8,192 positions. It
        is finite: where a block of positions is all hidden, infinities would be subtracted.
        """
        if isinstance(self._mask, str):
            return self._mask
        if self._added is None:
            self._added = mx.where(self._mask, 0.0, mx.finfo(kind).min / 2).astype(kind)
        return self._added

    def _seen(self, tokens: int) -> mx.array:
        """Who sees the last positions: of a causal mask, those of the tokens themselves."""
        if not isinstance(self._mask, str):
            return self._mask
        return mx.arange(tokens) <= mx.arange(tokens)[:, None]
