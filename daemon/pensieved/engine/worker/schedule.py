"""What each pass consists of: all who decode, and as much of prompts as they can bear, in one of the ways that there are.

A chunk of prompts is part of the pass of those who decode; or a pass of its own, in as many parts as they need; or one that pauses
for them (see `slices`).
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

from pensieved.engine.worker.choosing.chooser import choose_first
from pensieved.engine.worker.pace import Pace
from pensieved.engine.worker.slices import Pausing, SlicedPace, Slices, set_off

if TYPE_CHECKING:
    from collections.abc import Sequence

    import mlx.core as mx

    from pensieved.engine.worker.decode import Decoder
    from pensieved.engine.worker.passes.runner import Runner
    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.prefill import Group, Prefill

    Planned = Sequence[tuple[Group, int]]
    Chosen = tuple[mx.array, dict[int, mx.array]]

_OTHER = 0, 0, 1.0
"""What `Pace.took` is told of a pass that is like none it compares: rows, tokens, share."""


class Schedule:
    """Plans passes and sets them off.

    Args:
        runner: computes them.
        shapes: the device's policy.
        prefill: the prompts.
        decoder: those who decode.
        prefill_chunk: see `Batch`.

    Attributes:
        idle_chunk: most prompt tokens of a pass while nobody decodes.
        busy_chunk: the same while somebody does.
    """

    def __init__(
        self, runner: Runner, shapes: Shapes, prefill: Prefill, decoder: Decoder, prefill_chunk: int
    ) -> None:
        self._runner = runner
        self._shapes = shapes
        self._prefill = prefill
        self._decoder = decoder
        self.idle_chunk = shapes.idle_chunks * prefill_chunk
        self.busy_chunk = shapes.busy_chunks * prefill_chunk
        pace = SlicedPace if shapes.apart else Pace
        self._pace = pace(self.busy_chunk, self.idle_chunk, shapes.chunk(shapes.least))
        self._planned: Planned = ()
        self._slices: Slices | None = None
        self._pausing: list[Pausing] = []  # the last one goes on first
        self._seen = 0.0  # when the previous pass's tokens were read
        self._ran = _OTHER

    @property
    def prompts(self) -> bool:
        """Whether the next pass computes any."""
        return bool(self._planned or self._slices or self._pausing)

    @property
    def waits(self) -> bool:
        """Whether the next pass is all but computed when it is set off."""
        chunks = [(group.prompt, length) for group, length in self._planned]
        return bool(self._pausing) or self._runner.waits(chunks)

    def budget(self, rows: int) -> int:
        """Prompt tokens that go along with a pass of so many rows that decode."""
        return self._pace.budget(rows, len(self._prefill))

    def try_chunks(self, tokens: int | None) -> None:
        """Let that many prompt tokens go along with those who decode, whatever it costs; None: as many as readers bear."""
        self._pace.trying = tokens

    def rest(self) -> None:
        """Nothing runs for a while."""
        self._pace.rest()

    def settle(self) -> None:
        """Forget what nobody waits for any more."""
        if self._slices is not None and self._slices.in_vain:
            self._slices = None
        self._pausing = [each for each in self._pausing if not each.dropped()]

    def plan(self) -> None:
        """Decide on the prompts of the next pass. What pauses is begun with."""
        decoding = len(self._decoder.rows)
        self._planned = ()
        if decoding:
            self._begin_pausing()
        if not self._slices and (decoding or not self._pausing):
            self._planned = self._prefill.plan(
                self.budget(decoding), beside=bool(decoding), busy=self._paused
            )

    def run(self) -> Chosen | None:
        """Set the pass off; what it chooses, where anybody decodes. What pauses for it goes on before."""
        decoding, waiting = len(self._decoder.rows), len(self._prefill)
        if not self._pausing:
            return self._set_off(waiting)
        self._go_on(decoding, waiting)
        self._seen = time.perf_counter()
        return self._set_off(waiting) if decoding else None

    def took(self) -> None:
        """The tokens of the pass before were read: learn from how long that took, if it was one like others."""
        now = time.perf_counter()
        self._pace.took(now - self._seen, *self._ran)
        self._seen, self._ran = now, _OTHER

    @property
    def _paused(self) -> list[Group]:
        """Those who are in a pass that pauses."""
        return [group for pausing in self._pausing for group, _ in pausing.planned]

    def _begin_pausing(self) -> None:
        """Begin with a pass that pauses, if there is none under way; or, before one of a long prompt, with one of prompts that it ends."""
        if len(self._pausing) > 1 or (self._pausing and self._pausing[0].ends):
            return
        planned = self._prefill.plan_pausing(self._paused, ending=bool(self._pausing))
        if planned:
            self._pausing.append(Pausing(planned, partial(self._compute, None, planned)))

    def _go_on(self, decoding: int, waiting: int) -> None:
        """Compute more of what pauses: of the last one, and of what comes after it, as much as can be borne.

        Of one before the last it is a piece, so that it is not starved.
        """
        until = time.perf_counter() + self._bearable(decoding, waiting)
        for pausing in self._pausing[:-1]:
            self._further(pausing, 0.0 if decoding else math.inf)
        while self._further(self._pausing[-1], until - time.perf_counter()):
            if time.perf_counter() >= until:
                return
            if decoding:
                self._begin_pausing()
            if not self._pausing:
                return

    def _further(self, pausing: Pausing, seconds: float) -> bool:
        """Compute more of it; whether it is complete."""
        if not pausing.go_on(seconds):
            return False
        self._prefill.went(pausing.planned)
        self._pausing.remove(pausing)
        return True

    def _bearable(self, decoding: int, waiting: int) -> float:
        """Seconds for what pauses: hardly any where other prompts go along with those who decode."""
        if not decoding:
            return math.inf
        return 0.0 if self._planned else self._pace.bound(decoding, waiting)

    def _compute(
        self, inputs: mx.array | None, planned: Planned, *, in_parts: bool = False
    ) -> tuple[mx.array | None, list[list[mx.array]]]:
        """See `Runner.run`. First tokens are chosen of prompts that end; they are of what must be evaluated besides the logits."""
        work = [(group.prompt, group.chunk(length)) for group, length in planned]
        ends = [place for place, (group, length) in enumerate(planned) if group.ends_after(length)]
        logits, results = self._runner.run(inputs, work, in_parts=in_parts, ends=ends)
        if logits is None or not ends:
            return logits, results
        width = start = 0 if inputs is None else inputs.size
        for group in (planned[place][0] for place in ends):
            results[0] += choose_first(group.rows, logits[start : start + len(group.rows)])
            start += len(group.rows)
        return (logits[:width] if width else None), results

    def _set_off(self, waiting: int) -> Chosen | None:
        """The pass of those who decode, or the one of prompts alone, which does not pause then; `waiting` prompts are not computed."""
        decoder, planned = self._decoder, self._planned
        tokens = sum(len(group.rows) * length for group, length in planned)
        parts = self._pace.parts(len(decoder.rows), waiting, tokens)
        inputs = decoder.inputs if decoder.rows else None
        logits, (rest, *layers) = self._compute(inputs, planned, in_parts=parts > 1)
        chosen = None if logits is None else decoder.choose(logits)
        if planned:
            self._slices = Slices(planned, layers, tokens, parts)
        slices, share, closely = self._slices, 1.0, False
        part: list[Sequence[mx.array]] = []
        if slices is not None:
            part, share = slices.take(everything=not decoder.rows)
            # Beside a long prompt's own KV cache it does not matter.
            closely = self._shapes.unpacks and slices.begins_and_ends
        set_off(chosen, rest, part, apart=self._shapes.apart, closely=closely)
        self._ran = len(decoder.rows), 0 if slices is None else slices.tokens, share
        if slices is not None and not slices:
            self._prefill.went(slices.planned)
            self._slices = None
        return chosen
