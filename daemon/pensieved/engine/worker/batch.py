"""The requests that run together: the seam to mlx-lm's continuous batching.

Everything above speaks of requests and ids of the protocol; everything below is `BatchGenerator`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences

from pensieved.engine.protocol import FinishReason, Output
from pensieved.engine.worker.sampling import Samplers

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module

    from pensieved.engine.protocol import Submit

MOST_PREFILLED_TOGETHER = 8
SMALLEST_CHUNK = 16


class RefusedRequestError(ValueError):
    """A request that the model cannot run; the engine is well."""


class Batch:
    """Running requests of one model.

    Args:
        model: an mlx-lm model, loaded.
        device: where it computes.
        max_concurrent: requests that decode together; more of them wait.
        prefill_chunk: prompt tokens, of all requests together, computed between two decode steps.
    """

    def __init__(self, model: Module, device: mx.Device, *, max_concurrent: int, prefill_chunk: int) -> None:
        self._prefill_chunk = prefill_chunk
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

    def __len__(self) -> int:
        return len(self._uids)

    def insert(self, submit: Submit) -> None:
        """Add a request.

        Raises:
            RefusedRequestError: it cannot be run.
        """
        self._check(submit)
        prompt_length = len(submit.prompt) - submit.position
        (uid,) = self._generator.insert(
            [list(submit.prompt)],
            max_tokens=[submit.max_tokens],
            samplers=[self._samplers.sampler(submit.sampling, submit.position)],
            logits_processors=[self._samplers.processors(submit.sampling, prompt_length)],
            stop_sequences=[_stop_sequences(submit.stop_tokens)],
        )
        self._uids[submit.request] = uid
        self._requests[uid] = submit.request

    def remove(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        uid = self._uids.pop(request, None)
        if uid is not None:
            del self._requests[uid]
            self._generator.remove([uid])

    def step(self) -> tuple[Output, ...]:
        """One decode step of all requests that decode, and one chunk of prefill for those that wait."""
        rows = max(1, min(MOST_PREFILLED_TOGETHER, len(self)))
        self._generator.prefill_step_size = max(SMALLEST_CHUNK, self._prefill_chunk // rows)
        _, responses = self._generator.next()
        outputs = []
        for response in responses:
            finish = None if response.finish_reason is None else FinishReason(response.finish_reason)
            outputs.append(Output(self._requests[response.uid], (response.token,), finish))
            if finish is not None:
                del self._uids[self._requests.pop(response.uid)]
        return tuple(outputs)

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
