"""The requests that decode: one token each a step.

That is one step ahead of what was read: while the device computes a step, the tokens of the one before are read. They are
the inputs of the step in flight, so reading them waits for nothing that was set off now. A request that ends is computed
once too often, and forgotten. Not so for a single request on a CPU, nor where many scores are computed there while a pass is
made (`passes/cpu/attention`): such a pass is all but computed when it is set off, and what little runs meanwhile is not worth
waiting for another pass with each token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import msgspec

from pensieved.engine.protocol import FinishReason, Output
from pensieved.engine.worker.choosing.chooser import Chooser
from pensieved.engine.worker.choosing.logprobs import read_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.engine.protocol import TokenLogprobs
    from pensieved.engine.worker.running import Running


class Decoder:
    """Which requests decode, where their rows are, and which tokens are on their way.

    Args:
        ahead: fewest rows with which another pass is set off before the tokens of one are read.
    """

    def __init__(self, ahead: int = 1) -> None:
        self.rows: list[Running] = []
        self.places: list[int] = []
        self._ahead = ahead
        self._tokens = mx.zeros((0,), dtype=mx.uint32)  # inputs of the next pass
        self._logprobs: dict[int, mx.array] = {}  # by request: those that the tokens were chosen by
        self._beside: mx.Stream | None = None  # where those are read, not to wait for the pass under way
        self._chooser = Chooser([], [], 0)

    @property
    def idle(self) -> bool:
        """Whether another pass would produce nothing: every token on its way is its request's last."""
        return all(row.gone or (row.unread and row.ends_next) for row in self.rows)

    @property
    def unread(self) -> bool:
        """Whether tokens are on their way that followed the last ones read."""
        return any(row.unread for row in self.rows)

    @property
    def waits(self) -> bool:
        """Whether those are not left for the next pass to follow."""
        return len(self.rows) < self._ahead

    @property
    def inputs(self) -> mx.array:
        """The tokens that the next pass starts from, (width,)."""
        return self._tokens

    def rearranged(self, joining: Sequence[Running], places: Sequence[int], width: int) -> None:
        """Take over a new arrangement: the rows that stay, then `joining`, at these places."""
        kept = [(row, place) for row, place in zip(self.rows, self.places, strict=True) if not row.gone]
        answered = [row for row in joining if row.first is not None]
        if kept or answered:
            own = self._tokens if kept else self._tokens[:0]
            sources = [place for _, place in kept] + [own.size + index for index in range(len(joining))]
            known = mx.concatenate([own, *_inputs(joining)])
            self._tokens = known[mx.array(_by_place(places, sources, width))]
        else:
            lasts = [row.prompt[-1] for row in joining]
            self._tokens = mx.array(_by_place(places, lasts, width), dtype=mx.uint32)
        self.rows = [*(row for row, _ in kept), *joining]
        self.places = list(places)
        self._chooser = Chooser(self.rows, self.places, width)
        if answered:
            mx.async_eval(self._tokens)  # type: ignore[no-untyped-call]  # before the next pass, so as not to wait for that
            for row in answered:
                self._take_first(row)

    def choose(self, logits: mx.array) -> tuple[mx.array, dict[int, mx.array]]:
        """The tokens that follow the pass of `inputs`; see `Chooser.choose`."""
        return self._chooser.choose(logits, self._tokens)

    def exchange(
        self, chosen: tuple[mx.array, dict[int, mx.array]] | None, *, waited: bool = False
    ) -> list[Output]:
        """The tokens to be sent now that those are on their way which a pass chose, if one was run.

        Args:
            chosen: see `choose`.
            waited: whether that pass is all but computed.
        """
        outputs = self.read()
        if chosen is not None:
            self.took(chosen)
        return self.and_those_at_once(outputs, waited=waited)

    def and_those_at_once(self, outputs: Sequence[Output], *, waited: bool = False) -> list[Output]:
        """These outputs, and what is on its way if that is not left for the next pass to follow; each request's in one."""
        more = self.read() if waited or self.waits else []
        results = {output.request: output for output in outputs}
        for output in more:
            results[output.request] = joined(results.get(output.request), output)
        return list(results.values())

    def read(self) -> list[Output]:
        """The tokens on their way, to be sent."""
        if not self.unread:
            return []
        tokens: Any = self._tokens.tolist()
        unread = [
            (row, tokens[place]) for row, place in zip(self.rows, self.places, strict=True) if row.unread
        ]
        for row, _ in unread:
            row.unread = False
        ready = [each for each in unread if not each[0].gone]
        logprobs = self._read_logprobs(ready)
        return [_output(row, token, logprobs.get(row.request, ())) for row, token in ready]

    def took(self, chosen: tuple[mx.array, dict[int, mx.array]]) -> None:
        """These are on their way from now on."""
        self._tokens, self._logprobs = chosen
        for row in self.rows:
            row.fresh, row.unread = False, True

    def _take_first(self, row: Running) -> None:
        """The first token of its answer is on its way."""
        if row.first is not None:
            self._logprobs = {**self._logprobs, **row.first[1]}
        row.first, row.fresh, row.unread = None, False, True

    def _read_logprobs(self, ready: Sequence[tuple[Running, int]]) -> dict[int, tuple[TokenLogprobs, ...]]:
        asking = [(row, token) for row, token in ready if row.request in self._logprobs]
        if not asking:
            return {}
        self._beside = self._beside or mx.new_stream(mx.default_device())
        with mx.stream(self._beside):
            read = read_logprobs(
                [self._logprobs[row.request][0] for row, _ in asking],
                [token for _, token in asking],
                [max(0, row.logprobs or 0) for row, _ in asking],
            )
        return {row.request: (each,) for (row, _), each in zip(asking, read, strict=True)}


def produced(row: Running, tokens: Sequence[int]) -> Output | None:
    """Further tokens of a row, to be sent: as many of them as it takes until it ends."""
    taken = []
    for token in tokens:
        taken.append(_output(row, token, ()))
        if row.gone:
            break
    return (
        msgspec.structs.replace(taken[-1], tokens=tuple(each.tokens[0] for each in taken)) if taken else None
    )


def joined(first: Output | None, more: Output) -> Output:
    """What a request produced first, and then."""
    if first is None:
        return more
    return msgspec.structs.replace(
        more, tokens=first.tokens + more.tokens, logprobs=(*first.logprobs, *more.logprobs)
    )


def _inputs(joining: Sequence[Running]) -> list[mx.array]:
    """What passes start from: the first tokens of answers where they are chosen, else the last of prompts."""
    if all(row.first is None for row in joining):
        return [mx.array([row.prompt[-1] for row in joining], dtype=mx.uint32)]
    return [
        row.first[0] if row.first is not None else mx.array(row.prompt[-1:], dtype=mx.uint32)
        for row in joining
    ]


def _by_place(places: Sequence[int], values: Sequence[int], width: int) -> list[int]:
    """The values at their places, of `width`; 0 elsewhere."""
    at = dict(zip(places, values, strict=True))
    return [at.get(place, 0) for place in range(width)]


def _output(row: Running, token: int, logprobs: tuple[TokenLogprobs, ...]) -> Output:
    row.answer.append(token)
    finish = None
    if token in row.stop_tokens:
        finish = FinishReason.STOP
    elif len(row.answer) >= row.max_tokens:
        finish = FinishReason.LENGTH
    row.gone = finish is not None
    return Output(row.request, (token,), finish, logprobs)
