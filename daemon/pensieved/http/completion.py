"""One answer, for every dialect: prompt, context check, queue, engine, neutral events.

A dialect translates its request into a `CompletionRequest` and encodes the events that come back. All of it
happens in the request's own thread; the engine knows ids only.

Counts are exact and the same everywhere: `input_tokens` is the length of the prompt ids, which is what
`count` says for the same request; `output_tokens` are the ids the answer was made of, the one that completed
a stop string included and the end token, which is no part of the answer, excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pensieved.chat.breakpoints import NONE
from pensieved.chat.canonical import canonical
from pensieved.chat.conversation import Conversation
from pensieved.chat.encoding import too_long
from pensieved.control.status import Phase
from pensieved.engine.protocol import Sampling
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.answer import Answer, Prompt
from pensieved.http.readiness import no_memory, not_ready, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pensieved.chat.conversation import RawPrompt
    from pensieved.control.serving import ServingModel
    from pensieved.http.admission import Admission
    from pensieved.http.daemon import Daemon
    from pensieved.http.ledger import Ledger
    from pensieved.http.record import RequestRecord
    from pensieved.settings.schema import GenerationSettings


@dataclass(frozen=True, kw_only=True)
class SamplingWishes:
    """What a request says about sampling; None leaves it to the settings."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """A request in no dialect's words. `max_tokens` None leaves the length to the settings.

    `logprobs` asks for log-probabilities of the answer's tokens, and of that many likeliest ones beside each.
    `prewarm`: where no answer is wanted, have the engine read the prompt all the same, for the prompt cache.
    """

    model: str
    conversation: Conversation | RawPrompt
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: SamplingWishes = SamplingWishes()
    logprobs: int | None = None
    prewarm: bool = False


class Completions:
    """The service behind every dialect's generating routes; `ledger` is told of tokens as they come."""

    def __init__(self, daemon: Daemon, admission: Admission, ledger: Ledger) -> None:
        self._daemon = daemon
        self.admission = admission
        self.ledger = ledger

    def count(self, model: str, conversation: Conversation) -> int:
        """Prompt tokens of `conversation`: what answering it would be charged; of what is far too long, a close estimate.

        Raises:
            RequestError: NOT_FOUND for another model, INVALID for a conversation the template refuses,
                OVERLOADED or UNAVAILABLE while there is no model.
        """
        cleaned, _ = canonical(conversation, self._daemon.settings.prompt.drop_lines)
        serving = self.resident(model)
        return serving.text.count_chat(cleaned, serving.context_length)

    def resident(self, model: str) -> ServingModel:
        """The model that answers, asked for as `model`.

        Raises:
            RequestError: NOT_FOUND for another model, OVERLOADED or UNAVAILABLE while there is none.
        """
        serving = self._daemon.serving
        if serving is None:
            status = self._daemon.status.current
            raise refusal(status) or not_ready(status)
        _check_name(serving, model)
        return serving

    def start(
        self, request: CompletionRequest, record: RequestRecord, client_gone: Callable[[], bool]
    ) -> Answer:
        """Begin to answer: everything that can be refused at once is refused here.

        Args:
            request: what to answer.
            record: filled in while the answer goes on.
            client_gone: asked between events; once true, the answer ends and its slot is free.

        Raises:
            RequestError: whatever is wrong with the request, or no place in the queue.
        """
        return self.start_together([request], [record], client_gone)[0]

    def start_together(
        self,
        requests: Sequence[CompletionRequest],
        records: Sequence[RequestRecord],
        client_gone: Callable[[], bool],
    ) -> list[Answer]:
        """Begin to answer all of `requests`, or none; as `start`, with a record for each.

        Raises:
            RequestError: whatever is wrong with one of them, or too few places in the queue.
        """
        status, serving = self._daemon.status.current, self._daemon.serving
        refused = refusal(status)
        if refused is not None and (serving is None or status.phase in _REFUSING):
            raise refused
        prompts: list[Prompt | None] = [None] * len(requests)
        if serving is not None:
            known: dict[int, Prompt] = {}  # the same conversation is not tokenized again
            for place, request in enumerate(requests):
                prompt = self.prepare(request, serving, known.get(id(request.conversation)))
                prompts[place] = known[id(request.conversation)] = prompt
        if (short := no_memory(self._daemon.engine_stats())) is not None:
            raise short
        tickets = self.admission.enter_together(len(requests))
        return [
            Answer(
                service=self,
                request=request,
                prompt=prompt,
                ticket=ticket,
                record=record,
                client_gone=client_gone,
            )
            for request, prompt, ticket, record in zip(requests, prompts, tickets, records, strict=True)
        ]

    def prepare(
        self, request: CompletionRequest, serving: ServingModel, same: Prompt | None = None
    ) -> Prompt:
        """The prompt's ids and limits for one model; `same` is one of the same conversation, if there is one.

        Raises:
            RequestError: NOT_FOUND for another model, INVALID for a refused conversation, TOO_LONG.
        """
        _check_name(serving, request.model)
        conversation, dropped = request.conversation, 0
        if same is not None:
            conversation = same.conversation
        elif isinstance(conversation, Conversation):
            conversation, dropped = canonical(conversation, self._daemon.settings.prompt.drop_lines)
        ids = same.ids if same else _ids(serving, conversation)
        if len(ids) > serving.context_length:
            raise too_long(len(ids), serving.context_length)
        generation = self._daemon.settings.generation
        wanted = generation.max_tokens if request.max_tokens is None else request.max_tokens
        room = serving.context_length - len(ids)
        breakpoints = NONE
        if isinstance(conversation, Conversation) and same is None:
            breakpoints = serving.text.breakpoints(conversation, ids, everywhere=not serving.cuts)
        return Prompt(
            serving=serving,
            conversation=conversation,
            ids=ids,
            grammar=same.grammar if same else serving.text.grammar(conversation, ids),
            dropped_lines=dropped,
            max_tokens=min(wanted, room),
            clamped=wanted > room,
            sampling=_sampling(request.sampling, generation),
            breakpoints=same.breakpoints if same else breakpoints.places,
            marked=same.marked if same else breakpoints.marked,
        )

    def await_model(self, timeout: float) -> ServingModel | None:
        """The model, as soon as there is one; None after `timeout` seconds without.

        Raises:
            RequestError: waiting became useless (failed, downloading, shutting down).
        """
        status = self._daemon.status.wait(lambda _: self._daemon.serving is not None, timeout)
        serving = self._daemon.serving
        refused = refusal(status)
        if serving is None and refused is not None:
            raise refused
        return serving

    @property
    def explain_cache(self) -> bool:
        """Whether clients may see text of where their prompt parts from what is cached."""
        return self._daemon.settings.prompt_cache.explain

    @property
    def request_timeout(self) -> float:
        """Longest time of one answer, in seconds."""
        return self._daemon.settings.server.request_timeout


_REFUSING = frozenset({Phase.DRAINING, Phase.FAILED})
"""Phases in which nothing is answered even though a model may be there."""


def _check_name(serving: ServingModel, name: str) -> None:
    if serving.answers_to(name):
        return
    aliases = ", ".join(serving.aliases) or "none"
    raise RequestError(
        RequestErrorKind.NOT_FOUND,
        f"There is no model {name!r} here: the resident model is {serving.name!r} (model.aliases: {aliases}).",
        path="model",
    )


def _ids(serving: ServingModel, prompt: Conversation | RawPrompt) -> Sequence[int]:
    if isinstance(prompt, Conversation):
        return serving.text.encode_chat(prompt, serving.context_length)
    content = prompt.content
    ids = serving.text.encode(content, serving.context_length) if isinstance(content, str) else content
    if not ids:
        raise RequestError(RequestErrorKind.INVALID, "The prompt has no tokens.", path="prompt")
    return ids


_MOST_TOP_K = 2**31 - 1
"""More than any vocabulary, and so no limit; what a request says may be beyond what a frame can carry."""


def _sampling(wishes: SamplingWishes, defaults: GenerationSettings) -> Sampling:
    temperature = defaults.temperature if wishes.temperature is None else wishes.temperature
    top_p = defaults.top_p if wishes.top_p is None else wishes.top_p
    top_k = defaults.top_k if wishes.top_k is None else wishes.top_k
    return Sampling(
        # A nucleus of no size holds the likeliest token alone, and that is greedy decoding.
        temperature=temperature if top_p > 0 else 0.0,
        top_p=top_p or 1.0,
        top_k=min(max(0, top_k), _MOST_TOP_K),
        min_p=defaults.min_p if wishes.min_p is None else wishes.min_p,
        seed=wishes.seed,
        repetition_penalty=1.0 if wishes.repetition_penalty is None else wishes.repetition_penalty,
        presence_penalty=wishes.presence_penalty or 0.0,
        frequency_penalty=wishes.frequency_penalty or 0.0,
        logit_bias=wishes.logit_bias,
    )
