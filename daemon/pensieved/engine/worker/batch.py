"""The requests that run together: who waits, who is in prefill, who decodes, and what each turn of the loop does.

A step is one pass of the model for everybody (`runner`): a token for each request that decodes, and as many prompt
tokens as those can bear (`pace`). What becomes of the logits is `choosing`'s and `decode`'s business.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import msgspec
from mlx_lm.utils import maybe_set_recommended_wired_limit

from pensieved.engine.protocol import MemoryStats, Output, Refused, SpeculationStats
from pensieved.engine.worker import warming
from pensieved.engine.worker.constraint import Constraints
from pensieved.engine.worker.decode import Decoder
from pensieved.engine.worker.memory.footprint import footprint_of
from pensieved.engine.worker.memory.gate import Gate
from pensieved.engine.worker.pace import Pace
from pensieved.engine.worker.prefill import Group, Keeper, Prefill
from pensieved.engine.worker.refusal import RefusedRequestError
from pensieved.engine.worker.runner import runner_for
from pensieved.engine.worker.running import Running
from pensieved.engine.worker.sampling import Samplers
from pensieved.engine.worker.shapes import shapes_for
from pensieved.engine.worker.speculation.turn import speculation_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from mlx.nn.layers.base import Module

    from pensieved.engine.protocol import Submit
    from pensieved.engine.worker.constraint import Constraint
    from pensieved.engine.worker.grammar import Grammars
    from pensieved.engine.worker.memory.guard import Guard
    from pensieved.engine.worker.shapes import Shapes
    from pensieved.engine.worker.speculation.turn import Speculation

COMPILE_PATIENCE = 0.05
"""Seconds to wait for a grammar where nothing else is to be done."""
READ_PATIENCE = 0.05
"""The same for what is read from disk."""
ROOM_PATIENCE = 0.05
"""The same for memory."""
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
        self._model = model
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
        self._submits: dict[int, Submit] = {}
        self._gate: Gate | None = None
        self._refusals: list[Refused] = []
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
        if self._gate is not None:
            self._gate.check(len(submit.prompt))
        self._begin(submit)

    def _begin(self, submit: Submit) -> None:
        if not submit.grammar:
            self._enter(submit)
        elif self._grammars is not None:
            self._compiling[submit.request] = (submit, self._grammars.compile(submit, self._vocabulary))
        else:
            raise RefusedRequestError("This engine follows no grammars.")

    def remove(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._compiling.pop(request, None)
        self._submits.pop(request, None)
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

    def guard(self, guard: Guard) -> None:
        """Let requests begin as memory allows, from now on."""
        with mx.stream(self._stream):
            self._gate = Gate(guard, footprint_of(self._model, self._runner, self._shapes))

    @property
    def memory(self) -> MemoryStats:
        """What the guard says."""
        return self._gate.stats if self._gate is not None else MemoryStats()

    def watch(self) -> None:
        """Have the guard look how the memory is; cheap, to be called at each turn."""
        late = self._gate.look() if self._gate is not None else None
        if late is not None:
            self._put_back(late)

    def first_passes(self) -> Iterator[None]:
        """The passes that a first wave of requests needs, each when it is asked for, while there are no requests."""
        passes = warming.first_passes(
            self._runner,
            self._shapes,
            rows=self._max_concurrent,
            idle_chunk=self._idle_chunk,
            chunk=self._prefill_chunk,
        )
        return self._in_stream(passes)

    def further_passes(self) -> Iterator[None]:
        """Those of longer prompts; see `first_passes`."""
        passes = warming.further_passes(
            self._runner, self._shapes, rows=self._max_concurrent, idle_chunk=self._idle_chunk
        )
        return self._in_stream(passes)

    @contextmanager
    def unremembered(self) -> Iterator[None]:
        """Keep the prompt cache, the memory guard and speculation from knowing of any request meanwhile."""
        apart = self._gate, self._speculation
        self._gate = self._speculation = None
        if self._keeper is not None:
            self._keeper.is_open = False
        try:
            yield
        finally:
            self._gate, self._speculation = apart
            if self._keeper is not None:
                self._keeper.is_open = True

    def try_chunks(self, tokens: int | None) -> None:
        """Let that many prompt tokens go along with a decode step, whatever it costs; None: as many as readers bear."""
        self._pace.trying = tokens

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
        self._admit_held()
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

    def _in_stream(self, passes: Iterator[None]) -> Iterator[None]:
        while True:
            with mx.stream(self._stream):
                if next(passes, passes) is passes:
                    return
            yield

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
        if self._keeper is None or not self._keeper.is_open or row.fresh:
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
            self._bounded(submit),
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
        self._submits[submit.request] = submit
        reading = self._keeper.fetch(row) if self._keeper is not None else []
        if reading:
            self._fetching[submit.request] = (row, reading)
        else:
            self._queue(row)

    def _bounded(self, submit: Submit) -> int:
        """Tokens after which its answer ends: where memory does, if that is earlier than what was asked for."""
        if self._gate is None:
            return submit.max_tokens
        return self._gate.bounded(len(submit.prompt), submit.max_tokens)

    def _queue(self, row: Running) -> None:
        """Let a row that is complete wait for its turn."""
        if self._gate is not None:
            self._gate.add(row)
        else:
            self._prefill.add(row)

    def _put_back(self, row: Running) -> None:
        """Let a request that runs wait for memory again, and go on later from the tokens that it has."""
        submit, count = self._submits[row.request], len(row.answer)
        self.remove(row.request)
        self._begin(
            msgspec.structs.replace(
                submit,
                prompt=(*submit.prompt, *row.answer),
                max_tokens=submit.max_tokens - count,
                position=submit.position + count,
            )
        )

    def _refuse(self, request: int, message: str, *, overloaded: bool = False) -> None:
        self.remove(request)
        self._refusals.append(Refused(request, message, overloaded))

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
                self._queue(row)

    def _admit_held(self) -> None:
        """Let those wait for their prefill for whom there is memory; where nobody else is left, wait a moment for it."""
        if self._gate is None:
            return
        for row in self._gate.admitted():
            self._prefill.add(row)
        given_up = self._gate.given_up()
        if given_up is not None:
            self._refuse(given_up[0].request, given_up[1], overloaded=True)
        elif self._gate.only_waiting:
            time.sleep(ROOM_PATIENCE)

    def _check(self, submit: Submit) -> None:
        if not submit.prompt:
            raise RefusedRequestError("The prompt has no tokens.")
        if submit.max_tokens < 1:
            raise RefusedRequestError("max_tokens must be at least 1.")
        if min(submit.prompt) < 0 or max(submit.prompt) >= self._vocabulary:
            # MLX does not check indices: it would read foreign memory.
            raise RefusedRequestError(f"The prompt has a token id outside of 0 to {self._vocabulary - 1}.")
