"""An answer in the making: an iterator of neutral events that must be closed.

It waits for the model (when that is about to be ready), then for a slot, then for the engine, and yields an
`Idle` at least every `TICK` seconds meanwhile: a moment for a dialect's ping. Before each event it checks
that the client is still there, that time is not up and that the daemon is not ending, so a client that goes
away frees its slot within one step of the engine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec
import structlog

from pensieved.chat.events import (
    Alternative,
    Delta,
    Event,
    Failure,
    Finish,
    Idle,
    Logprobs,
    StopReason,
    TokenLogprob,
)
from pensieved.engine.protocol import FinishReason
from pensieved.errors import PensievedError, RequestError, RequestErrorKind
from pensieved.http.cachenote import CacheNote

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from pensieved.chat.conversation import Conversation, RawPrompt
    from pensieved.chat.events import Usage
    from pensieved.chat.segmenter import Segmenter
    from pensieved.chat.tokenizer import ChatTokenizer
    from pensieved.control.serving import ServingModel, Users
    from pensieved.engine.client import Generation
    from pensieved.engine.protocol import Sampling, TokenLogprobs
    from pensieved.http.admission import Ticket
    from pensieved.http.completion import CompletionRequest, Completions
    from pensieved.http.ledger import Pace
    from pensieved.http.record import RequestRecord

log = structlog.get_logger()

TICK = 0.5
"""Seconds between looks at the client while nothing happens."""


class ClientGoneError(Exception):
    """Nobody is left to read the answer."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is submitted, for one model.

    Attributes:
        conversation: what was asked, volatile lines left out.
        ids: the prompt.
        grammar: what the answer must follow, or empty.
        dropped_lines: how many volatile lines were left out.
        clamped: the context leaves less room than was asked for.
        breakpoints: numbers of its tokens after which other prompts may go on differently.
        marked: its tokens up to the last place that the client marked for caching.
    """

    serving: ServingModel
    conversation: Conversation | RawPrompt
    ids: Sequence[int]
    grammar: str
    dropped_lines: int
    max_tokens: int
    clamped: bool
    sampling: Sampling
    breakpoints: tuple[int, ...] = ()
    marked: int = 0


class Answer:
    """Events of one answer: deltas and idles, then exactly one `Finish` or `Failure`.

    Iterating raises `ClientGoneError` when the client went away. `close` gives everything back and may be
    called at any time, from the iterating thread.

    Attributes:
        prompt_usage: what is known of the prompt's tokens (None while the model is still loading).
    """

    def __init__(
        self,
        *,
        service: Completions,
        request: CompletionRequest,
        prompt: Prompt | None,
        ticket: Ticket,
        record: RequestRecord,
        client_gone: Callable[[], bool],
    ) -> None:
        self._service = service
        self._request = request
        self._prompt = prompt
        self._ticket = ticket
        self._record = record
        self._client_gone = client_gone
        self._deadline = time.monotonic() + service.request_timeout
        self._cache = CacheNote(record, explain=service.explain_cache)
        self._generation: Generation | None = None
        self._user: Users | None = None  # of the model, once it is told that this answer needs it
        self._segmenter: Segmenter | None = None
        self._pace: Pace | None = None
        self._events = self._run()
        self._over = False  # the last event was made
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._client_gone():
            self.close()
            raise ClientGoneError
        event = next(self._events)
        self._cache.look()
        return event

    @property
    def prompt_usage(self) -> Usage | None:
        """The prompt's tokens, once they are known; how many were cached, before the first token of the answer."""
        return self._cache.usage(self._prompt) if self._prompt else None

    def close(self, unfinished: str = "client_gone") -> None:
        """Stop the engine's work and give the slot back; `unfinished` says why, where that is before the end."""
        if self._closed:
            return
        self._closed = True
        if not self._over:
            self._record.error = unfinished
        self._events.close()
        self._release()

    def _release(self) -> None:
        if self._generation is not None:
            self._generation.cancel()
        if self._pace is not None:
            self._service.ledger.end(self._pace)
        if self._user is not None:
            self._user.leave()
            self._user = None
        self._ticket.leave()
        self._record.input_tokens = len(self._prompt.ids) if self._prompt else None
        self._record.dropped_lines = (self._prompt.dropped_lines or None) if self._prompt else None
        self._record.output_tokens = self._segmenter.consumed if self._segmenter else 0

    def _run(self) -> Generator[Event]:
        try:
            yield from self._stages()
        except RequestError as error:
            yield self._failure(error.kind, error.what, error.retry_after)
        except PensievedError as error:
            log.warning("answer failed", request_id=self._record.request_id, reason=str(error))
            yield self._failure(RequestErrorKind.INTERNAL, str(error))
        finally:
            self._release()

    def _stages(self) -> Iterator[Event]:
        prompt = None
        while prompt is None:
            yield from self._wait_for_model()
            yield from self._wait_for_slot()
            prompt = self._current_prompt()
        self._record.queue_seconds = self._record.elapsed()
        if prompt.max_tokens > 0:
            yield from self._generate(prompt)
            return
        if self._request.prewarm:
            yield from self._prefill(prompt)
        yield self._finish(prompt, StopReason.LENGTH)

    def _wait_for_model(self) -> Iterator[Idle]:
        while self._prompt is None:
            serving = self._service.await_model(TICK)
            if serving is not None:
                self._prompt = self._service.prepare(self._request, serving)
            else:
                yield self._idle()

    def _wait_for_slot(self) -> Iterator[Idle]:
        while not self._ticket.wait(TICK):
            yield self._idle()

    def _current_prompt(self) -> Prompt | None:
        """The prompt, unless another model took over while this request waited; then that one stays until the end."""
        if self._prompt is not None and not self._prompt.serving.users.enter():
            self._prompt = None
        elif self._prompt is not None:
            self._user = self._prompt.serving.users
        return self._prompt

    def _prefill(self, prompt: Prompt) -> Iterator[Idle]:
        """Have the engine read the prompt, which leaves it in the prompt cache; the token that comes of it is nobody's."""
        generation = self._generation = prompt.serving.engine.submit(
            prompt.ids,
            max_tokens=1,
            stop_tokens=prompt.serving.text.stop_token_ids,
            sampling=prompt.sampling,
            breakpoints=prompt.breakpoints,
        )
        self._cache.follow(prompt, generation)
        while generation.next(TICK) is None:
            yield self._idle()

    def _generate(self, prompt: Prompt) -> Iterator[Event]:
        text = prompt.serving.text
        segmenter = self._segmenter = text.segmenter(prompt.conversation, prompt.ids, self._request.stop)
        pace = self._pace = self._service.ledger.begin()
        grammar = prompt.grammar
        while True:
            ended = yield from self._decode(prompt, segmenter, pace, grammar)
            if ended or not segmenter.overthought or segmenter.consumed >= prompt.max_tokens:
                break
            # The model has reasoned long enough: its reasoning is ended for it, and it goes on from there.
            closing = text.closing_ids()[: prompt.max_tokens - segmenter.consumed]
            closed = segmenter.feed(closing, forced=True)
            pace.reached(segmenter.consumed, decoded=False)
            yield from self._delivered(closed)
            grammar = text.grammar(prompt.conversation, prompt.ids, thought=True)
            if segmenter.consumed >= prompt.max_tokens:
                break
        yield from self._delivered(segmenter.finish())
        yield self._finish(prompt, StopReason.END if ended or segmenter.over else StopReason.LENGTH)

    def _decode(
        self, prompt: Prompt, segmenter: Segmenter, pace: Pace, grammar: str
    ) -> Generator[Event, None, bool]:
        """Events until the engine, the answer or the budget of its reasoning is at its end; whether the model ended it."""
        text, sampling = prompt.serving.text, prompt.sampling
        if segmenter.ids and sampling.seed is not None:  # a part of its own draws noise of its own
            sampling = msgspec.structs.replace(sampling, seed=sampling.seed + segmenter.consumed)
        generation = self._generation = prompt.serving.engine.submit(
            [*prompt.ids, *segmenter.ids],
            max_tokens=prompt.max_tokens - segmenter.consumed,
            stop_tokens=text.stop_token_ids,
            sampling=sampling,
            logprobs=self._request.logprobs,
            grammar=grammar,
            breakpoints=prompt.breakpoints,
        )
        self._cache.follow(prompt, generation)
        while True:
            chunk = generation.next(TICK)
            if chunk is None:
                yield self._idle()
                continue
            self._check()
            ended = chunk.finish is FinishReason.STOP
            consumed = segmenter.consumed
            deltas = segmenter.feed(chunk.tokens[:-1] if ended else chunk.tokens)
            pace.reached(segmenter.consumed)
            if chunk.logprobs:
                count = segmenter.consumed - consumed
                yield _logprobs(text, chunk.tokens[:count], chunk.logprobs[:count])
            yield from self._delivered(deltas)
            if not deltas:  # everything is held back: still a moment to look at the client
                yield Idle()
            if segmenter.over or segmenter.overthought or chunk.finish is not None:
                generation.cancel()
                return ended and not segmenter.overthought

    def _delivered(self, deltas: Sequence[Delta]) -> Iterator[Delta]:
        if deltas and self._record.ttft_seconds is None:
            self._record.ttft_seconds = self._record.elapsed()
        yield from deltas

    def _finish(self, prompt: Prompt, reason: StopReason) -> Finish:
        self._over = True
        self._release()
        matched = self._segmenter.stopped_by if self._segmenter else None
        if matched is not None:
            reason = StopReason.STOP_SEQUENCE if matched in self._request.stop else StopReason.END
        elif reason is StopReason.END and self._segmenter is not None and self._segmenter.calls:
            reason = StopReason.TOOL_USE
        elif reason is StopReason.LENGTH and prompt.clamped:
            reason = StopReason.CONTEXT
        self._record.stop_reason = reason.value
        consumed, thought = (self._segmenter.consumed, self._segmenter.thought) if self._segmenter else (0, 0)
        return Finish(
            reason,
            self._cache.usage(prompt, consumed, thought),
            matched if reason is StopReason.STOP_SEQUENCE else None,
        )

    def _failure(self, kind: RequestErrorKind, message: str, retry_after: float | None = None) -> Failure:
        self._over = True
        self._release()
        self._record.error = kind.value
        return Failure(kind.value, message, retry_after)

    def _idle(self) -> Idle:
        self._check()
        return Idle()

    def _check(self) -> None:
        if self._service.admission.aborted:
            raise RequestError(RequestErrorKind.UNAVAILABLE, "The daemon is shutting down.")
        if time.monotonic() > self._deadline:
            raise RequestError(
                RequestErrorKind.TIMEOUT,
                f"The answer took longer than server.request_timeout ({self._service.request_timeout:g} s).",
            )


def _logprobs(text: ChatTokenizer, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> Logprobs:
    return Logprobs(
        tuple(
            TokenLogprob(
                text.token_bytes(token),
                each.chosen,
                tuple(Alternative(text.token_bytes(other), value) for other, value in each.top),
            )
            for token, each in zip(tokens, logprobs, strict=True)
        )
    )
