"""The requests that run together: who arrives, who is in prefill, who decodes, and what each turn of the loop does.

A step is one pass of the model for everybody (`runner`): a token for each request that decodes, and as many prompt
tokens as those can bear (`schedule`). What becomes of the logits is `choosing`'s and `decode`'s business.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx_lm.utils import maybe_set_recommended_wired_limit

from pensieved.engine.protocol import Output, Refused, SpeculationStats
from pensieved.engine.worker import rehearsal
from pensieved.engine.worker.arrivals import Arrivals
from pensieved.engine.worker.decode import Decoder
from pensieved.engine.worker.memory.footprint import footprint_of
from pensieved.engine.worker.memory.gate import Gate
from pensieved.engine.worker.passes.runner import runner_for
from pensieved.engine.worker.passes.shapes import shapes_for
from pensieved.engine.worker.prefill import Keeper, Prefill
from pensieved.engine.worker.schedule import Schedule
from pensieved.engine.worker.speculation.turn import speculation_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlx.nn.layers.base import Module

    from pensieved.engine.protocol import MemoryStats, Submit
    from pensieved.engine.worker.choosing.grammar import Grammars
    from pensieved.engine.worker.memory.guard import Guard
    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.running import Running
    from pensieved.engine.worker.speculation.turn import Speculation

PARTS_OF_MEMORY = 4
"""A warm-up brings no prompt that takes more than such a part of what requests could have."""
STEPS_BETWEEN_CLEANINGS = 512
"""MLX keeps freed memory for arrays of the same size; sizes that were outgrown never come again."""


class Batch:
    """Running requests of one model.

    Args:
        model: an mlx-lm model, loaded.
        device: where it computes.
        max_concurrent: requests that run together; more of them wait.
        prefill_chunk: most prompt tokens, of all requests together, computed with a decode step; on a device where more of
            them hardly take longer, so many times as many as its shapes say.
        grammars: makes the constraints of requests that have a grammar; without it they are refused.
        keeper: prompt cache, if there is one.
        shapes: policy for the sizes of arrays; the device's own by default.
        on_begin: told of each request, by its number, when something is first done for it on the device.

    Raises:
        UnloadableError: requests of this model cannot run together.
    """

    def __init__(
        self,
        model: Module,
        device: mx.Device,
        *,
        max_concurrent: int,
        prefill_chunk: int,
        grammars: Grammars | None = None,
        keeper: Keeper | None = None,
        shapes: Shapes | None = None,
        on_begin: Callable[[int], object] = lambda _: None,
    ) -> None:
        maybe_set_recommended_wired_limit()
        self._stream = mx.new_stream(device)
        with mx.stream(self._stream):
            self._runner, shapes = runner_for(model, shapes or shapes_for(device))
        shapes = replace(shapes, pausing=min(shapes.pausing, prefill_chunk))
        self._model = model
        self._shapes = shapes
        self.max_concurrent = max_concurrent
        self._keeper = keeper
        self._arrivals = Arrivals(
            model(mx.array([[0]])).shape[-1],  # lazy: nothing is computed for its shape
            grammars=grammars,
            keeper=keeper,
            room=lambda length: shapes.prompt_capacity(0, shapes.own(length)),
            on_entry=self._enter,
            on_refusal=self._refuse,
        )
        self._prefill = Prefill(self._runner, shapes, keeper)
        self._decoder = Decoder(shapes.ahead)
        self._schedule = Schedule(self._runner, shapes, self._prefill, self._decoder, prefill_chunk)
        self._rows: dict[int, Running] = {}
        self._on_begin = on_begin
        self._refusals: list[Refused] = []
        self._gate: Gate | None = None
        self._speculation: Speculation | None = None
        self._steps = 0

    def __len__(self) -> int:
        return len(self._rows) + len(self._arrivals)

    def insert(self, submit: Submit) -> None:
        """Add a request.

        Raises:
            RefusedRequestError: it cannot be run.
        """
        self._arrivals.add(submit)

    def remove(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._arrivals.remove(request)
        self._let_go(request)

    def guard(self, guard: Guard) -> None:
        """Let requests begin as memory allows, from now on."""
        with mx.stream(self._stream):
            self._gate = Gate(guard, footprint_of(self._model, self._runner, self._shapes))
        self._arrivals.gate = self._gate

    @property
    def memory(self) -> MemoryStats:
        """What the guard says."""
        return self._arrivals.memory

    def watch(self) -> None:
        """Have the guard look how the memory is; cheap, to be called at each turn."""
        gate = self._arrivals.gate
        late = gate.look() if gate is not None else None
        if late is not None:
            self._let_go(late.request)
            self._arrivals.put_back(late)

    @property
    def expected(self) -> rehearsal.Expected:
        """What requests it is to be ready for."""
        gate, schedule = self._gate, self._schedule
        longest = None if gate is None else gate.fitting(PARTS_OF_MEMORY)
        return rehearsal.Expected(
            self.max_concurrent,
            schedule.idle_chunk,
            schedule.busy_chunk,
            longest,
            in_parts=self._shapes.apart,
        )

    def first_passes(self) -> Iterator[None]:
        """The passes that a first wave of requests needs, each when it is asked for, while there are no requests."""
        return self._in_stream(rehearsal.first_passes(self._runner, self._shapes, self.expected))

    def further_passes(self) -> Iterator[None]:
        """Those of longer prompts; see `first_passes`."""
        return self._in_stream(rehearsal.further_passes(self._runner, self._shapes, self.expected))

    @contextmanager
    def unremembered(self) -> Iterator[None]:
        """Keep the prompt cache, the memory guard and speculation from knowing of any request meanwhile."""
        speculation, self._speculation = self._speculation, None
        self._arrivals.gate = None
        if self._keeper is not None:
            self._keeper.is_open = False
        try:
            yield
        finally:
            self._arrivals.gate, self._speculation = self._gate, speculation
            if self._keeper is not None:
                self._keeper.is_open = True

    def try_chunks(self, tokens: int | None) -> None:
        """Let that many prompt tokens go along with a decode step, whatever it costs; None: as many as readers bear."""
        self._schedule.try_chunks(tokens)

    def speculate(self) -> None:
        """From now on, draft tokens where that pays; without effect where it never does."""
        self._speculation = speculation_for(self._runner, self._shapes)

    @property
    def speculation(self) -> SpeculationStats:
        """What was drafted so far."""
        return self._speculation.stats if self._speculation is not None else SpeculationStats()

    def step(self) -> tuple[Output, ...]:
        """A decode step of all requests that decode, and a chunk of prefill of those that do not yet."""
        for row in self._arrivals.admitted(len(self._rows)):
            self._on_begin(row.request)
            self._prefill.add(row)
        if not self._rows:
            return ()
        with mx.stream(self._stream):
            outputs = self._step()
        for output in outputs:
            if output.finish is not None:
                self.remove(output.request)
        for request, message in self._arrivals.failures():
            self._refuse(Refused(request, message))
        return tuple(outputs)

    def take_refusals(self) -> list[Refused]:
        """Requests that turned out not to be runnable since the last call; they are no longer part of the batch."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def _in_stream(self, passes: Iterator[None]) -> Iterator[None]:
        while True:
            with mx.stream(self._stream):
                if next(passes, passes) is passes:
                    return
            yield

    def _enter(self, row: Running) -> None:
        """A request that is complete, or nearly."""
        if not self._rows:
            self._schedule.rest()
            if self._speculation is not None:
                self._speculation.rest()
        self._rows[row.request] = row

    def _let_go(self, request: int) -> None:
        row = self._rows.pop(request, None)
        if row is not None and not row.gone:
            with mx.stream(self._stream):
                self._keep(row)
            row.gone = True
        if row is not None and not self._rows:  # nothing will step: give the memory back now
            with mx.stream(self._stream):
                self._settle()

    def _refuse(self, refused: Refused) -> None:
        self.remove(refused.request)
        self._refusals.append(refused)

    def _step(self) -> list[Output]:
        decoder, schedule = self._decoder, self._schedule
        self._settle()
        schedule.plan()
        prompts = schedule.prompts
        if not prompts and self._speculation is not None and self._speculation.promises(decoder):
            outputs = self._speculation.turn(decoder)
            self._keep_answers(outputs)
            self._count()
            return outputs
        passing = prompts or not decoder.idle
        waits = passing and schedule.waits
        if decoder.unread and (waits or decoder.waits):  # these shall not wait for another pass
            outputs = decoder.read()
            self._keep_answers(outputs)
            return outputs
        chosen = schedule.run() if passing else None
        outputs = decoder.exchange(chosen, waited=waits)
        self._keep_answers(outputs)
        if self._speculation is not None:
            self._speculation.watch(decoder, passed=passing, prompts=prompts)
        if passing:
            self._count()
        else:
            schedule.rest()
        return outputs

    def _settle(self) -> None:
        """Let go of rows that ended, and let prompts that are computed join those that decode."""
        self._schedule.settle()
        decoding = sum(not row.gone for row in self._decoder.rows)
        self._prefill.admit(self.max_concurrent - decoding, self._schedule.budget(decoding))
        groups = self._prefill.finished()
        decoder = self._decoder
        if not groups and not any(row.gone for row in decoder.rows):
            return
        keep = [place for row, place in zip(decoder.rows, decoder.places, strict=True) if not row.gone]
        coming = [
            (group.prompt, index, row)
            for group in groups
            for index, row in enumerate(group.rows)
            if not row.gone
        ]
        places = self._runner.arrange(
            keep, [(prompt, index, len(row.prompt) - (row.first is None)) for prompt, index, row in coming]
        )
        decoder.rearranged([row for _, _, row in coming], places, self._runner.width)

    def _keep_answers(self, outputs: Sequence[Output]) -> None:
        """Show rows that ended to the prompt cache."""
        for output in outputs:
            if output.finish is not None:
                self._keep(self._rows[output.request])

    def _keep(self, row: Running) -> None:
        """Show a row that leaves to the prompt cache. Where a pass followed its last token, that is in the cache too."""
        if self._keeper is None or not self._keeper.is_open or row.fresh:
            return
        place = self._decoder.places[self._decoder.rows.index(row)]
        length = len(row.prompt) + len(row.answer) - (0 if row.unread else 1)
        self._keeper.keep(row, length, partial(self._runner.snapshot, place))

    def _count(self) -> None:
        """A pass was set off, and the tokens of the one before were read."""
        self._schedule.took()
        self._steps += 1
        if self._steps % STEPS_BETWEEN_CLEANINGS == 0:
            mx.clear_cache()
