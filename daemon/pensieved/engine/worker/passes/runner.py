"""What runs the passes: one flat pass for everybody where the model allows it, else mlx-lm's own batch caches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pensieved.engine.worker.passes.cpu.device import on_x86
from pensieved.engine.worker.passes.cpu.linear import multiply_few_rows
from pensieved.engine.worker.passes.cpu.powers import activate_by_powers
from pensieved.engine.worker.passes.fitting import flat_for
from pensieved.engine.worker.passes.library import Library
from pensieved.engine.worker.passes.quantized import see_matrices
from pensieved.engine.worker.passes.vectors import see_vectors

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import mlx.core as mx

    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.running import Snapshot


class Runner(Protocol):
    """The model, and the KV caches of all requests. Groups of prompts are opaque to others."""

    @property
    def width(self) -> int:
        """Rows of a pass that decode, unused ones included."""

    def open(self, lengths: Sequence[int], prefix: Snapshot | None = None, cached: int = 0) -> Any:
        """See `Flat.open`."""

    def waits(self, work: Sequence[tuple[Any, int]]) -> bool:
        """See `Flat.waits`."""

    def pauses(self, work: Sequence[tuple[Any, int]]) -> bool:
        """See `Flat.pauses`."""

    def run(
        self,
        tokens: mx.array | None,
        work: Sequence[tuple[Any, Sequence[Sequence[int]]]],
        *,
        in_parts: bool = False,
        ends: Collection[int] = (),
    ) -> tuple[mx.array | None, list[list[mx.array]]]:
        """See `Flat.run`."""

    def arrange(self, keep: Sequence[int], coming: Sequence[tuple[Any, int, int]]) -> list[int]:
        """See `Flat.arrange`."""

    def snapshot(self, place: int, start: int = 0, end: int | None = None) -> Snapshot:
        """See `Flat.snapshot`."""

    def prompt_snapshot(self, prompt: Any, row: int, start: int = 0, end: int | None = None) -> Snapshot:
        """See `Flat.prompt_snapshot`."""


def runner_for(model: Any, shapes: Shapes) -> tuple[Runner, Shapes]:
    """The runner for a model, and the shapes it can follow.

    Raises:
        UnloadableError: there is none.
    """
    shapes = replace(shapes, unpacks=see_matrices(model))
    if shapes.vectors:
        see_vectors(model)
    if on_x86():
        multiply_few_rows(model)
        activate_by_powers(model)
    flat = flat_for(model, shapes)
    if flat is not None:
        return flat, shapes
    return Library(model), replace(shapes, padded=False, slack=0, answering=False)
