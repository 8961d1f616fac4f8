"""The requests that run together: who waits, who is in prefill, who decodes, and what each turn of the loop does.

A step is one pass of the model for everybody (`runner`): a token for each request that decodes, and as many prompt
tokens as those can bear (`pace`). What becomes of the logits is `choosing`'s and `decode`'s business.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.utils import maybe_set_recommended_wired_limit

from pensieved.engine.protocol import Output, Refused, SpeculationStats
from pensieved.engine.worker.constraint import Constraints
from pensieved.engine.worker.decode import Decoder
from pensieved.engine.worker.pace import Pace
from pensieved.engine.worker.prefill import Group, Keeper, Prefill
from pensieved.engine.worker.refusal import RefusedRequestError
from pensieved.engine.worker.runner import runner_for
from pensieved.engine.worker.running import Running
from pensieved.engine.worker.sampling import Samplers
from pensieved.engine.worker.shapes import shapes_for
from pensieved.engine.worker.speculation.turn import speculation_for
from pensieved.engine.worker.warming import first_passes, further_passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from mlx.nn.layers.base import Module

    from pensieved.engine.protocol import Submit
    from pensieved.engine.worker.constraint import Constraint
    from pensieved.engine.worker.grammar import Grammars
    from pensieved.engine.worker.shapes import Shapes
    from pensieved.engine.worker.speculation.turn import Speculation

COMPILE_PATIENCE = 0.05
"""Seconds to wait for a grammar where nothing else is to be done."""
READ_PATIENCE = 0.05
"""The same for what is read from disk."""
STEPS_BETWEEN_CLEANINGS = 512
"""MLX keeps freed memory for arrays of the same size; sizes that were outgrown never come again."""

_UNCOMPILED = "The grammar cannot be compiled."


class Batch:
    """Running requests of one model.

    Args:
        model: an mlx-lm model, loaded.
        device: where it computes.
        max_concurrent: requests that run together; more of them wait.
        prefill_chunk: most prompt tokens, of all requests together, computed with a decode step.
        grammars: makes the constraints of requests that have a grammar; without it they are refused.
        keeper: prompt cache, if there is one.
        shapes: policy for the sizes of arrays; the device's own by default.

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
    ) -> None:
        maybe_set_recommended_wired_limit()
        self._stream = mx.new_stream(device)
        with mx.stream(self._stream):
            self._runner, shapes = runner_for(model, shapes or shapes_for(device))
        self._shapes = shapes
        self._max_concurrent = max_concurrent
        self._prefill_chunk = prefill_chunk
        self._grammars = grammars
        self._keeper = keeper
        self._vocabulary = model(mx.array([[0]])).shape[-1]  # lazy: nothing is computed for its shape
        self._samplers = Samplers(self._vocabulary)
        self._idle_chunk = shapes.idle_chunks * prefill_chunk
        self._pace = Pace(prefill_chunk, self._idle_chunk)
        self._prefill = Prefill(self._runner, shapes, keeper)
        self._decoder = Decoder()
        self._rows: dict[int, Running] = {}
        self._constraints = Constraints(self._vocabulary)
        self._compiling: dict[int, tuple[Submit, Future[Constraint]]] = {}
        self._fetching: dict[int, tuple[Running, list[Future[Any]]]] = {}
        self._refusals: list[Refused] = []
        self._further: Iterator[None] = iter(())
        self._speculation: Speculation | None = None
        self._steps = 0
        self._seen = 0.0  # when the previous step's tokens were read

    def __len__(self) -> int:
        return len(self._rows) + len(self._compiling)

    def insert(self, submit: Submit) -> None:
        """Add a request.

        Raises:
            RefusedRequestError: it cannot be run.
        """
        self._check(submit)
        if not submit.grammar:
            self._enter(submit)
        elif self._grammars is not None:
            self._compiling[submit.request] = (submit, self._grammars.compile(submit, self._vocabulary))
        else:
            raise RefusedRequestError("This engine follows no grammars.")

    def remove(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._compiling.pop(request, None)
        self._constraints.remove(request)
        self._fetching.pop(request, None)
        row = self._rows.pop(request, None)
        if row is not None and not row.gone:
            with mx.stream(self._stream):
                self._keep(row, passed=True)
            row.gone = True
        if row is not None and not self._rows:  # nothing will step: give the memory back now
            with mx.stream(self._stream):
                self._settle()

    def meet_shapes(self) -> None:
        """Run what a first wave of requests will need, while there are none."""
        with mx.stream(self._stream):
            for _ in first_passes(
                self._runner,
                self._shapes,
                rows=self._max_concurrent,
                idle_chunk=self._idle_chunk,
                chunk=self._prefill_chunk,
            ):
                pass
        self._further = further_passes(
            self._runner, self._shapes, rows=self._max_concurrent, idle_chunk=self._idle_chunk
        )

    def meet_more(self) -> bool:
        """Use a moment without requests to run one of the rarer shapes; whether there was one."""
        with mx.stream(self._stream):
            return not self._rows and next(self._further, self) is None

    def speculate(self) -> None:
        """From now on, draft tokens where that pays; without effect where it never does."""
        self._speculation = speculation_for(self._runner, self._shapes)

    @property
    def speculation(self) -> SpeculationStats:
        """What was drafted so far."""
        return self._speculation.stats if self._speculation is not None else SpeculationStats()

    def step(self) -> tuple[Output, ...]:
        """A decode step of all requests that decode, and a chunk of prefill of those that do not yet."""
        self._admit_compiled()
        self._admit_fetched()
        if not self._rows:
            return ()
        with mx.stream(self._stream):
            outputs = self._step()
        for output in outputs:
            if output.finish is not None:
                self.remove(output.request)
        for request, message in self._constraints.failures():
            self._refuse(request, message)
        return tuple(outputs)

    def take_refusals(self) -> list[Refused]:
        """Requests that turned out not to be runnable since the last call; they are no longer part of the batch."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def _step(self) -> list[Output]:
        decoder = self._decoder
        self._settle()
        decoding = len(decoder.rows)
        planned = self._prefill.plan(self._pace.budget(decoding))
        if not planned and self._speculation is not None and self._speculation.promises(decoder):
            outputs, passed = self._speculation.turn(decoder)
            self._keep_answers(outputs, passed=passed)
            self._time(0, 0)  # other than what `pace` compares
            return outputs
        passing = bool(planned) or not decoder.idle
        chosen = self._run(planned) if passing else None
        outputs = decoder.read(chosen)
        self._keep_answers(outputs, passed=passing)
        if self._speculation is not None:
            self._speculation.watch(decoder, passed=passing, prompts=bool(planned))
        if passing:
            self._time(decoding, sum(len(group.rows) * length for group, length in planned))
        else:
            self._pace.rest()
        return outputs

    def _run(self, planned: Sequence[tuple[Group, int]]) -> tuple[mx.array, dict[int, mx.array]] | None:
        """Set off a pass; what it chooses, where anybody decodes."""
        decoder = self._decoder
        work = [(group.prompt, group.chunk(length)) for group, length in planned]
        tokens = decoder.inputs if decoder.rows else None
        logits, rest = self._runner.run(tokens, work)
        chosen = None if logits is None else decoder.choose(logits)
        if chosen is None:
            mx.eval(rest)
        else:
            mx.async_eval(chosen, rest)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
        self._prefill.went(planned)
        return chosen

    def _settle(self) -> None:
        """Let go of rows that ended, and let prompts that are computed join those that decode."""
        decoding = sum(not row.gone for row in self._decoder.rows)
        self._prefill.admit(self._max_concurrent - decoding, self._pace.budget(decoding))
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
            keep, [(prompt, index, len(row.prompt) - 1) for prompt, index, row in coming]
        )
        decoder.rearranged([row for _, _, row in coming], places, self._runner.width)

    def _keep_answers(self, outputs: Sequence[Output], *, passed: bool) -> None:
        """Show rows that ended to the prompt cache."""
        for output in outputs:
            if output.finish is not None:
                self._keep(self._rows[output.request], passed=passed)

    def _keep(self, row: Running, *, passed: bool) -> None:
        """Show a row that leaves to the prompt cache. A pass behind its last token has that token in the cache too."""
        if self._keeper is None or not self._keeper.keeps_answers or row.fresh:
            return
        place = self._decoder.places[self._decoder.rows.index(row)]
        length = len(row.prompt) + len(row.answer) - (0 if passed else 1)
        self._keeper.keep(row, length, partial(self._runner.snapshot, place))

    def _time(self, decoding: int, prompt_tokens: int) -> None:
        now = time.perf_counter()
        self._pace.took(now - self._seen, decoding, prompt_tokens)
        self._seen = now
        self._steps += 1
        if self._steps % STEPS_BETWEEN_CLEANINGS == 0:
            mx.clear_cache()

    def _enter(self, submit: Submit, constraint: Constraint | None = None) -> None:
        """Let a request wait for its prefill. The grammar's mask comes behind all other processors."""
        sampler = self._samplers.sampler(submit.sampling, submit.position)
        processors = self._samplers.processors(submit.sampling, len(submit.prompt) - submit.position)
        if constraint is not None:
            self._constraints.add(submit.request, constraint)
            sampler = constraint.remembering(sampler)
            processors.append(partial(self._constraints.apply, constraint))
        row = Running(
            submit.request,
            submit.prompt,
            submit.max_tokens,
            frozenset(submit.stop_tokens),
            sampler,
            tuple(processors),
            submit.logprobs,
            submit.breakpoints,
        )
        if not self._rows:
            self._pace.rest()
            if self._speculation is not None:
                self._speculation.rest()
        self._rows[submit.request] = row
        reading = self._keeper.fetch(row) if self._keeper is not None else []
        if reading:
            self._fetching[submit.request] = (row, reading)
        else:
            self._prefill.add(row)

    def _refuse(self, request: int, message: str) -> None:
        self.remove(request)
        self._refusals.append(Refused(request, message))

    def _admit_compiled(self) -> None:
        """Let those in whose grammar is ready; where nobody decodes, wait a moment for one."""
        if self._compiling and not self._rows:
            wait([future for _, future in self._compiling.values()], COMPILE_PATIENCE, FIRST_COMPLETED)
        for request, (submit, future) in list(self._compiling.items()):
            if not future.done():
                continue
            error = future.exception()
            if error is None:
                del self._compiling[request]
                self._enter(submit, future.result())
            else:  # the library is foreign code: whatever it raises is this request's alone
                self._refuse(request, str(error) if isinstance(error, RefusedRequestError) else _UNCOMPILED)

    def _admit_fetched(self) -> None:
        """Let those wait for their prefill whose prefix was read from disk; where only they are left, wait a moment."""
        if not self._fetching:
            return
        if len(self._fetching) == len(self._rows):
            reading = [future for _, futures in self._fetching.values() for future in futures]
            wait(reading, READ_PATIENCE, FIRST_COMPLETED)
        for request, (row, futures) in list(self._fetching.items()):
            if all(future.done() for future in futures):
                del self._fetching[request]
                self._prefill.add(row)

    def _check(self, submit: Submit) -> None:
        if not submit.prompt:
            raise RefusedRequestError("The prompt has no tokens.")
        if submit.max_tokens < 1:
            raise RefusedRequestError("max_tokens must be at least 1.")
        if min(submit.prompt) < 0 or max(submit.prompt) >= self._vocabulary:
            # MLX does not check indices: it would read foreign memory.
            raise RefusedRequestError(f"The prompt has a token id outside of 0 to {self._vocabulary - 1}.")
