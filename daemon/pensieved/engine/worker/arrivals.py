"""Requests on their way to prefill: each waits for what it still lacks.

First its grammar is compiled, then what the prompt cache has for it is read from disk, then there must be memory for it.
Where nobody else is there to be served meanwhile, it is waited for, a moment at a time.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from pensieved.engine.protocol import MemoryStats, Refused
from pensieved.engine.worker.choosing.constraint import Constraints
from pensieved.engine.worker.choosing.sampling import Samplers
from pensieved.engine.worker.refusal import RefusedRequestError
from pensieved.engine.worker.running import Running

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pensieved.engine.protocol import Submit
    from pensieved.engine.worker.choosing.constraint import Constraint
    from pensieved.engine.worker.choosing.grammar import Grammars
    from pensieved.engine.worker.memory.gate import Gate
    from pensieved.engine.worker.prefill import Keeper

COMPILE_PATIENCE = 0.05
"""Seconds to wait for a grammar where nothing else is to be done."""
READ_PATIENCE = 0.05
"""The same for what is read from disk."""
ROOM_PATIENCE = 0.05
"""The same for memory."""

_UNCOMPILED = "The grammar cannot be compiled."


class Arrivals:
    """Makes requests of submissions, and says when they may begin.

    Args:
        vocabulary: token ids that there are.
        grammars: makes the constraints of requests that have a grammar; without it they are refused.
        keeper: prompt cache, if there is one.
        room: tokens that a prompt of so many will have room for.
        on_entry: told of each request when it is complete but for what it may start from.
        on_refusal: told of those that turn out not to be runnable.

    Attributes:
        gate: lets requests begin as memory allows, if there is one.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        grammars: Grammars | None,
        keeper: Keeper | None,
        room: Callable[[int], int],
        on_entry: Callable[[Running], None],
        on_refusal: Callable[[Refused], None],
    ) -> None:
        self.gate: Gate | None = None
        self._vocabulary = vocabulary
        self._grammars = grammars
        self._keeper = keeper
        self._room = room
        self._on_entry = on_entry
        self._on_refusal = on_refusal
        self._samplers = Samplers(vocabulary)
        self._constraints = Constraints(vocabulary)
        self._submits: dict[int, Submit] = {}  # of all that have entered
        self._compiling: dict[int, tuple[Submit, Future[Constraint]]] = {}
        self._fetching: dict[int, tuple[Running, list[Future[Any]]]] = {}
        self._ready: list[Running] = []

    def __len__(self) -> int:
        """Submissions that are no requests yet."""
        return len(self._compiling)

    @property
    def memory(self) -> MemoryStats:
        """What the guard says."""
        return self.gate.stats if self.gate is not None else MemoryStats()

    def add(self, submit: Submit) -> None:
        """A submission.

        Raises:
            RefusedRequestError: it cannot be run.
        """
        self._check(submit)
        if self.gate is not None and not submit.position:  # one that goes on was let in once
            self.gate.check(len(submit.prompt))
        self._begin(submit)

    def put_back(self, row: Running) -> None:
        """Let a request that ran, and was let go, begin again from the tokens that it has."""
        self._leave(row.request)
        submit, count = self._submits.pop(row.request), len(row.answer)
        self._begin(
            msgspec.structs.replace(
                submit,
                prompt=(*submit.prompt, *row.answer),
                max_tokens=submit.max_tokens - count,
                position=submit.position + count,
            )
        )

    def remove(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._compiling.pop(request, None)
        self._submits.pop(request, None)
        self._leave(request)

    def failures(self) -> list[tuple[int, str]]:
        """Requests whose grammars gave up, and why."""
        return list(self._constraints.failures())

    def admitted(self, rows: int) -> list[Running]:
        """Those that may begin now.

        Args:
            rows: requests that there are, these included.
        """
        self._admit_compiled(waiting=not rows)
        self._admit_fetched(rows)
        admitted, self._ready = self._ready, []
        return admitted if self.gate is None else [*admitted, *self._admitted_by(self.gate)]

    def _begin(self, submit: Submit) -> None:
        if not submit.grammar:
            self._enter(submit)
        elif self._grammars is not None:
            self._compiling[submit.request] = (submit, self._grammars.compile(submit, self._vocabulary))
        else:
            raise RefusedRequestError("This engine follows no grammars.")

    def _leave(self, request: int) -> None:
        self._constraints.remove(request)
        self._fetching.pop(request, None)
        self._ready = [row for row in self._ready if row.request != request]

    def _enter(self, submit: Submit, constraint: Constraint | None = None) -> None:
        """Make the request. The grammar's mask comes behind all other processors."""
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
        self._submits[submit.request] = submit
        self._on_entry(row)
        room = self._room(len(submit.prompt))
        reading = self._keeper.fetch(row, room) if self._keeper is not None else []
        if reading:
            self._fetching[submit.request] = (row, reading)
        else:
            self._complete(row)

    def _bounded(self, submit: Submit) -> int:
        """Tokens after which its answer ends: where memory does, if that is earlier than what was asked for."""
        if self.gate is None:
            return submit.max_tokens
        return self.gate.bounded(len(submit.prompt), submit.max_tokens)

    def _complete(self, row: Running) -> None:
        if self.gate is not None:
            self.gate.add(row)
        else:
            self._ready.append(row)

    def _admit_compiled(self, *, waiting: bool) -> None:
        """Make requests of those whose grammar is ready."""
        if self._compiling and waiting:
            wait([future for _, future in self._compiling.values()], COMPILE_PATIENCE, FIRST_COMPLETED)
        for request, (submit, future) in list(self._compiling.items()):
            if not future.done():
                continue
            del self._compiling[request]
            error = future.exception()
            if error is None:
                self._enter(submit, future.result())
            else:  # the library is foreign code: whatever it raises is this request's alone
                reason = str(error) if isinstance(error, RefusedRequestError) else _UNCOMPILED
                self._on_refusal(Refused(request, reason))

    def _admit_fetched(self, rows: int) -> None:
        """Let those go on whose prefix was read from disk."""
        reading = [
            [future for future in futures if not future.done()] for _, futures in self._fetching.values()
        ]
        if reading and all(reading) and len(reading) == rows:
            wait(chain(*reading), READ_PATIENCE, FIRST_COMPLETED)
        for request, (row, futures) in list(self._fetching.items()):
            if all(future.done() for future in futures):
                del self._fetching[request]
                self._complete(row)

    def _admitted_by(self, gate: Gate) -> list[Running]:
        """Those for whom there is memory."""
        admitted = gate.admitted()
        given_up = gate.given_up()
        if given_up is not None:
            self._on_refusal(Refused(given_up[0].request, given_up[1], overloaded=True))
        elif gate.only_waiting:
            time.sleep(ROOM_PATIENCE)
        return admitted

    def _check(self, submit: Submit) -> None:
        if not submit.prompt:
            raise RefusedRequestError("The prompt has no tokens.")
        if submit.max_tokens < 1:
            raise RefusedRequestError("max_tokens must be at least 1.")
        if min(submit.prompt) < 0 or max(submit.prompt) >= self._vocabulary:
            # MLX does not check indices: it would read foreign memory.
            raise RefusedRequestError(f"The prompt has a token id outside of 0 to {self._vocabulary - 1}.")
