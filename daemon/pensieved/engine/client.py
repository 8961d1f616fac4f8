"""The running requests, as the daemon sees them: submit, read tokens, cancel.

A `Generation` belongs to the thread of its HTTP request and knows nothing of engines. `EngineClient` holds all of
them; the supervisor gives it a living engine (`attach`), takes it away again (`bereave`) and hands it what the
engine says (`dispatch`). Everything here is quick and never waits for the engine: sending only queues a frame.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import msgspec

from pensieved.engine.blame import Record, admissible
from pensieved.engine.protocol import (
    Cancel,
    FinishReason,
    Output,
    Recalled,
    Refused,
    Sampling,
    Step,
    Submit,
    Taken,
    ToEngine,
    TokenLogprobs,
    encode,
)
from pensieved.errors import EngineError, PensievedError, RequestError, RequestErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RETRY_SECONDS = 5
"""After which it makes sense to ask again where the engine had too little memory: about what an answer takes."""


class Chunk(msgspec.Struct, frozen=True):
    """What arrived since the last look; `finish` is set on the last chunk of a generation.

    `logprobs` has one entry a token where they were asked for, and is empty elsewhere.
    """

    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class Generation:
    """One request. `next` is for the request's own thread; `cancel` may be called from any.

    Made by `EngineClient.submit`.
    """

    def __init__(self, submit: Submit, forget: Callable[[Generation], None]) -> None:
        self.record = Record()
        self._submit = submit
        self._forget = forget
        self._changed = threading.Condition()
        self._produced: list[int] = []
        self._logprobs: list[TokenLogprobs] = []  # as long as `_produced`, or empty
        self._taken = 0
        self._finish: FinishReason | None = None
        self._error: PensievedError | None = None
        self._recalled: Recalled | None = None

    @property
    def request(self) -> int:
        """Its id on the wire."""
        return self._submit.request

    @property
    def produced(self) -> Sequence[int]:
        """All ids so far, the stop token included."""
        return self._produced

    @property
    def recalled(self) -> Recalled | None:
        """What the prompt cache had for it, as soon as an engine has said so: known before the first token."""
        return self._recalled

    def next(self, timeout: float) -> Chunk | None:
        """All tokens that arrived, waiting up to `timeout` seconds for the first; None if none did.

        Tokens that arrived before a failure are returned before it is raised.

        Raises:
            RequestError: the engine refused the request, or it was cancelled.
            EngineError: no engine can complete it.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, timeout)
            tokens = tuple(self._produced[self._taken :])
            logprobs = tuple(self._logprobs[self._taken :])
            self._taken += len(tokens)
            if tokens or self._finish is not None:
                return Chunk(tokens, self._finish, logprobs)
            if self._error is not None:
                raise self._error
            return None

    def cancel(self) -> None:
        """Free the slot within one engine step. Harmless when it is over already."""
        self._forget(self)
        self.fail(RequestError(RequestErrorKind.UNAVAILABLE, "The request was cancelled."))

    def submission(self) -> Submit:
        """The frame with which an engine starts this request, or goes on with it."""
        position = len(self._produced)
        return msgspec.structs.replace(
            self._submit,
            prompt=(*self._submit.prompt, *self._produced),
            max_tokens=self._submit.max_tokens - position,
            position=position,
        )

    def recall(self, recalled: Recalled) -> None:
        """Note what the prompt cache had. What a second engine has of an answer that it goes on with is nobody's business."""
        if self._recalled is None:
            most = len(self._submit.prompt)
            self._recalled = msgspec.structs.replace(
                recalled, cached=min(recalled.cached, most), matched=min(recalled.matched, most)
            )

    def deliver(self, output: Output) -> None:
        """Append what an engine produced."""
        with self._changed:
            self._produced.extend(output.tokens)
            self._logprobs.extend(output.logprobs)
            self._finish = output.finish
            self._changed.notify_all()

    def fail(self, error: PensievedError) -> None:
        """End with `error`, unless it has ended."""
        with self._changed:
            if self._finish is None and self._error is None:
                self._error = error
                self._changed.notify_all()

    def _has_news(self) -> bool:
        return len(self._produced) > self._taken or self._finish is not None or self._error is not None


class EngineClient:
    """All running requests of one engine, over all its lives. Safe from any thread.

    Args:
        on_demand: called after a request has come for which there is no engine at the moment.
    """

    def __init__(self, on_demand: Callable[[], object] = lambda: None) -> None:
        self._on_demand = on_demand
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._live: dict[int, Generation] = {}
        self._send: Callable[[ToEngine], None] | None = None
        self._closed: str | None = None
        self._resumed = 0
        self._submitted = 0

    def submit(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        stop_tokens: Sequence[int],
        sampling: Sampling,
        logprobs: int | None = None,
        grammar: str = "",
        breakpoints: Sequence[int] = (),
    ) -> Generation:
        """Start a request; while an engine is starting or restarting it waits for that.

        Args:
            prompt: token ids, at least one.
            max_tokens: limit of the answer, at least 1.
            stop_tokens: ids that end the answer; the one that does is its last token.
            sampling: how tokens are chosen.
            logprobs: report log-probabilities, of the tokens and of that many likeliest ones beside each.
            grammar: what the answer must follow, in llguidance's notation (`chat.grammar` writes it).
            breakpoints: numbers of prompt tokens, rising, after which other prompts may go on differently.

        Raises:
            EngineError: there is no engine and none is coming.
            OverflowError: a number does not fit into 64 bits.
        """
        if sampling.seed is not None:
            sampling = msgspec.structs.replace(sampling, seed=sampling.seed % 2**64)
        submit = Submit(
            next(self._ids),
            tuple(prompt),
            max_tokens,
            tuple(stop_tokens),
            sampling,
            logprobs=logprobs,
            grammar=grammar,
            breakpoints=tuple(breakpoints),
        )
        encode(submit)  # what cannot be sent must not be in the way when all requests are sent again
        generation = Generation(submit, self._remove)
        with self._lock:
            if self._closed is not None:
                raise EngineError(self._closed)
            self._live[submit.request] = generation
            self._submitted += 1
            waiting = self._send is None
            self._admit()
        if waiting:
            self._on_demand()
        return generation

    @property
    def live(self) -> int:
        """Requests that are neither finished, failed nor cancelled."""
        return len(self._live)

    @property
    def submitted(self) -> int:
        """Requests that ever came."""
        return self._submitted

    @property
    def resumed(self) -> int:
        """How often a request was handed to another engine after its own had died."""
        return self._resumed

    # --- for the supervisor --------------------------------------------------------------------------------

    def attach(self, send: Callable[[ToEngine], None]) -> None:
        """An engine is ready: hand it all requests. `send` must not block."""
        with self._lock:
            self._send = send
            self._admit()

    def bereave(self, weight: float, reason: str) -> None:
        """The engine died: judge the requests, and fail those that have now cost two engines.

        Args:
            weight: what this death counts (see `blame`).
            reason: how it died.
        """
        with self._lock:
            self._send = None
            for generation in self._live.values():
                generation.record.bereaved(weight)
            guilty = [each for each in self._live.values() if each.record.guilty]
            for generation in guilty:
                del self._live[generation.request]
        for generation in guilty:
            generation.fail(EngineError(f"This request brought the engine down more than once: {reason}."))

    def dispatch(self, step: Step) -> None:
        """Deliver the tokens of one step."""
        with self._lock:
            admit = False
            for output in step.outputs:
                generation = self._live.get(output.request)
                if generation is None:
                    continue
                if not generation.record.progressed:
                    generation.record.progress()
                    admit = True
                if output.finish is not None:
                    del self._live[output.request]
                generation.deliver(output)
            if admit:
                self._admit()

    def acknowledge(self, taken: Taken) -> None:
        """The engine has read a request: from now on its death may be that request's doing."""
        with self._lock:
            generation = self._live.get(taken.request)
            if generation is not None:
                generation.record.taken = True

    def recall(self, recalled: Recalled) -> None:
        """Tell a request what the prompt cache had for it."""
        with self._lock:
            generation = self._live.get(recalled.request)
        if generation is not None:
            generation.recall(recalled)

    def refuse(self, refused: Refused) -> None:
        """End a request that the engine will not run."""
        with self._lock:
            generation = self._live.pop(refused.request, None)
            self._admit()
        if generation is not None:
            kind = RequestErrorKind.OVERLOADED if refused.overloaded else RequestErrorKind.INVALID
            later = RETRY_SECONDS if refused.overloaded else None
            generation.fail(RequestError(kind, refused.message, retry_after=later))

    def open(self) -> None:
        """Accept requests again."""
        with self._lock:
            self._closed = None

    def close(self, reason: str) -> None:
        """Fail all requests, and those to come, with `reason`."""
        with self._lock:
            self._closed = reason
            self._send = None
            failed = list(self._live.values())
            self._live.clear()
        for generation in failed:
            generation.fail(EngineError(reason))

    def _remove(self, generation: Generation) -> None:
        with self._lock:
            if self._live.pop(generation.request, None) is None:
                return
            if generation.record.in_flight and self._send is not None:
                self._send(Cancel(generation.request))
            self._admit()

    def _admit(self) -> None:
        """Hand over whoever may run; the lock is held."""
        if self._send is None:
            return
        for generation in admissible(self._live.values()):
            self._resumed += generation.record.lives > 0
            generation.record.submitted()
            self._send(generation.submission())
