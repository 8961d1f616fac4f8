"""Several answers to one request, as one stream of events.

Each choice is an `Answer` of its own, with its own place in the queue, so that eight choices weigh as much as
eight requests. A single one is iterated as it is. Of several, each is read by a thread of its own, because any of
them may wait, for a slot or for its prefill, while others already speak; an answer looks at its surroundings at
least every `answer.TICK` seconds, so those threads end that soon.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Self

import msgspec

from pensieved.chat.events import Delta, Event, Failure, Finish, Idle, Logprobs, Usage
from pensieved.errors import RequestErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pensieved.http.answer import Answer
    from pensieved.http.completion import CompletionRequest, Completions
    from pensieved.http.record import RequestRecord

_CLIENT_GONE = "client_gone"


class Choice(msgspec.Struct, frozen=True):
    """What one of the choices says."""

    index: int
    event: Delta | Logprobs | Finish


ChoiceEvent = Choice | Idle | Failure


def fan_out(request: CompletionRequest, count: int) -> list[CompletionRequest]:
    """`count` requests for choices of one; from a seed, each gets another one, always the same."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * count
    return [
        replace(request, sampling=replace(request.sampling, seed=_seed(seed, index)))
        for index in range(count)
    ]


def _seed(seed: int, index: int) -> int:
    if index == 0:
        return seed
    digest = blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Choices:
    """Events of several answers, as they come: a `Source` for streams.

    After a `Failure` of one of them there is nothing more. Must be closed.

    Args:
        completions: the service that answers.
        requests: one a choice; choices of one prompt stand together.
        per_prompt: how many choices each prompt has.
        record: the HTTP request's own, filled in at the end.
        client_gone: whether nobody is left to read.

    Raises:
        RequestError: one of them cannot be answered; then none is.
    """

    def __init__(
        self,
        completions: Completions,
        requests: Sequence[CompletionRequest],
        *,
        per_prompt: int = 1,
        record: RequestRecord,
        client_gone: Callable[[], bool],
    ) -> None:
        self.per_prompt = per_prompt
        self._record = record
        record.model = requests[0].model
        self._records = [record] if len(requests) == 1 else [replace(record) for _ in requests]
        self._answers = completions.start_together(requests, self._records, client_gone)
        self._running = len(requests)
        self._events: queue.SimpleQueue[tuple[int, Event] | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closing: str | None = None
        self._failed: str | None = None

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChoiceEvent:
        if not self._running:
            raise StopIteration
        index, event = self._next()
        if isinstance(event, Failure):
            self._running, self._failed = 0, event.kind
            return event
        if isinstance(event, Idle):
            return event
        self._running -= isinstance(event, Finish)
        return Choice(index, event)

    @property
    def prompt_usage(self) -> Usage | None:
        """The tokens of all prompts, once they are known."""
        usages = [answer.prompt_usage for answer in self._answers[:: self.per_prompt]]
        known = [usage for usage in usages if usage is not None]
        if len(known) < len(usages):
            return None
        return Usage(
            sum(usage.input_tokens for usage in known), 0, sum(usage.cached_tokens for usage in known)
        )

    def close(self, unfinished: str = _CLIENT_GONE) -> None:
        """End all answers and give everything back; `unfinished` says why, where that is before the end."""
        if self._closing is not None:
            return
        unfinished = self._closing = self._failed or unfinished
        for thread in self._threads:
            thread.join()
        for answer in self._answers:
            answer.close(unfinished)
        if len(self._records) > 1:
            self._sum_up()

    def _next(self) -> tuple[int, Event]:
        if len(self._answers) == 1:
            return 0, next(self._answers[0])
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._read, args=item, name=f"choice-{item[0]}", daemon=True)
                for item in enumerate(self._answers)
            ]
            for thread in self._threads:
                thread.start()
        item = self._events.get()
        # Whichever choice speaks first knows its own; the first one's may still be to come.
        self._record.cache_header = next(filter(None, (each.cache_header for each in self._records)), "")
        if isinstance(item, BaseException):
            raise item
        return item

    def _read(self, index: int, answer: Answer) -> None:
        try:
            for event in answer:
                self._events.put((index, event))
                if self._closing is not None:
                    break
        except BaseException as error:  # noqa: BLE001  raised again in the request's own thread
            self._events.put(error)
        finally:
            answer.close(self._closing or RequestErrorKind.INTERNAL.value)

    def _sum_up(self) -> None:
        """The HTTP request's record: sums, the first token, and what went wrong first."""
        parts, record = self._records, self._record
        record.input_tokens = sum(part.input_tokens or 0 for part in parts[:: self.per_prompt])
        record.dropped_lines = sum(part.dropped_lines or 0 for part in parts[:: self.per_prompt]) or None
        record.output_tokens = sum(part.output_tokens or 0 for part in parts)
        record.cached_tokens = sum(part.cached_tokens or 0 for part in parts[:: self.per_prompt])
        record.diverged_at = parts[0].diverged_at
        record.ttft_seconds = min(
            (part.ttft_seconds for part in parts if part.ttft_seconds is not None), default=None
        )
        record.queue_seconds = max(
            (part.queue_seconds for part in parts if part.queue_seconds is not None), default=None
        )
        record.stop_reason = parts[0].stop_reason
        record.error = next((part.error for part in parts if part.error is not None), None)
