"""The requests that run together: the seam to mlx-lm's continuous batching.

Everything above speaks of requests and ids of the protocol; everything below is `BatchGenerator`.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, wait
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences

from pensieved.engine.protocol import FinishReason, Output, Refused
from pensieved.engine.worker.constraint import Constraints
from pensieved.engine.worker.logprobs import read_logprobs
from pensieved.engine.worker.refusal import RefusedRequestError
from pensieved.engine.worker.sampling import Samplers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from mlx.nn.layers.base import Module

    from pensieved.engine.protocol import Submit, TokenLogprobs
    from pensieved.engine.worker.constraint import Constraint
    from pensieved.engine.worker.grammar import Grammars

MOST_PREFILLED_TOGETHER = 8
SMALLEST_CHUNK = 16
COMPILE_PATIENCE = 0.05
"""Seconds to wait for a grammar where nothing else is to be done."""

_UNCOMPILED = "The grammar cannot be compiled."


class Batch:
    """Running requests of one model.

    Args:
        model: an mlx-lm model, loaded.
        device: where it computes.
        max_concurrent: requests that decode together; more of them wait.
        prefill_chunk: prompt tokens, of all requests together, computed between two decode steps.
        grammars: makes the constraints of requests that have a grammar; without it they are refused.
    """

    def __init__(
        self,
        model: Module,
        device: mx.Device,
        *,
        max_concurrent: int,
        prefill_chunk: int,
        grammars: Grammars | None = None,
    ) -> None:
        self._prefill_chunk = prefill_chunk
        self._grammars = grammars
        self._vocabulary = model(mx.array([[0]])).shape[-1]  # lazy: nothing is computed for its shape
        self._samplers = Samplers(self._vocabulary)
        self._generator: Any = BatchGenerator(
            model,
            completion_batch_size=max_concurrent,
            prefill_batch_size=min(MOST_PREFILLED_TOGETHER, max_concurrent),
            prefill_step_size=prefill_chunk,
            stream=mx.new_stream(device),
        )
        self._uids: dict[int, int] = {}  # request → mlx-lm's own id
        self._requests: dict[int, int] = {}  # and back
        self._logprobs: dict[
            int, int
        ] = {}  # mlx-lm's id → likeliest tokens to report, where logprobs are wanted
        self._constraints = Constraints(self._vocabulary)
        self._compiling: dict[int, tuple[Submit, Future[Constraint]]] = {}
        self._refusals: list[Refused] = []

    def __len__(self) -> int:
        return len(self._uids) + len(self._compiling)

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

    def _enter(self, submit: Submit, constraint: Constraint | None = None) -> None:
        """Hand a request to mlx-lm. The mask comes behind all other processors."""
        sampler = self._samplers.sampler(submit.sampling, submit.position)
        processors = self._samplers.processors(submit.sampling, len(submit.prompt) - submit.position)
        if constraint is not None:
            self._constraints.add(submit.request, constraint)
            sampler = constraint.remembering(sampler)
            processors.append(partial(self._constraints.apply, constraint))
        (uid,) = self._generator.insert(
            [list(submit.prompt)],
            max_tokens=[submit.max_tokens],
            samplers=[sampler],
            logits_processors=[processors],
            stop_sequences=[_stop_sequences(submit.stop_tokens)],
        )
        self._uids[submit.request] = uid
        self._requests[uid] = submit.request
        if submit.logprobs is not None:
            self._logprobs[uid] = max(0, submit.logprobs)

    def remove(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._compiling.pop(request, None)
        self._constraints.remove(request)
        uid = self._uids.pop(request, None)
        if uid is not None:
            del self._requests[uid]
            self._logprobs.pop(uid, None)
            self._generator.remove([uid])

    def step(self) -> tuple[Output, ...]:
        """One decode step of all requests that decode, and one chunk of prefill for those that wait."""
        self._admit_compiled()
        rows = max(1, min(MOST_PREFILLED_TOGETHER, len(self)))
        self._generator.prefill_step_size = max(SMALLEST_CHUNK, self._prefill_chunk // rows)
        _, responses = self._generator.next()
        logprobs = self._read_logprobs(responses)
        outputs = []
        for response in responses:
            finish = None if response.finish_reason is None else FinishReason(response.finish_reason)
            outputs.append(
                Output(
                    self._requests[response.uid], (response.token,), finish, logprobs.get(response.uid, ())
                )
            )
            if finish is not None:
                request = self._requests.pop(response.uid)
                del self._uids[request]
                self._constraints.remove(request)
                self._logprobs.pop(response.uid, None)
        for request, message in self._constraints.failures():
            self._refuse(request, message)
        return tuple(outputs)

    def take_refusals(self) -> list[Refused]:
        """Requests that turned out not to be runnable since the last call; they are no longer part of the batch."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def _refuse(self, request: int, message: str) -> None:
        self.remove(request)
        self._refusals.append(Refused(request, message))

    def _admit_compiled(self) -> None:
        """Let those in whose grammar is ready; where nobody decodes, wait a moment for one."""
        if self._compiling and not self._uids:
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

    def _read_logprobs(self, responses: Sequence[Any]) -> dict[int, tuple[TokenLogprobs, ...]]:
        """What is to be reported with each response, by mlx-lm's id; nothing is computed where nobody asked."""
        asking = [response for response in responses if response.uid in self._logprobs]
        if not asking:
            return {}
        read = read_logprobs(
            [response.logprobs for response in asking],
            [response.token for response in asking],
            [self._logprobs[response.uid] for response in asking],
        )
        return {response.uid: (each,) for response, each in zip(asking, read, strict=True)}

    def _check(self, submit: Submit) -> None:
        if not submit.prompt:
            raise RefusedRequestError("The prompt has no tokens.")
        if submit.max_tokens < 1:
            raise RefusedRequestError("max_tokens must be at least 1.")
        if min(submit.prompt) < 0 or max(submit.prompt) >= self._vocabulary:
            # MLX does not check indices: it would read foreign memory.
            raise RefusedRequestError(f"The prompt has a token id outside of 0 to {self._vocabulary - 1}.")


@lru_cache(maxsize=64)
def _stop_sequences(stop_tokens: tuple[int, ...]) -> StopSequences:
    return StopSequences([[token] for token in stop_tokens])
