"""The requests that decode: one token each a step, one step ahead of what was read.

While the device computes a step, the tokens of the one before are read: they are the inputs of the step in flight, so
reading them waits for nothing that was set off now. A request that ends is computed once too often, and forgotten.
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
    """Which requests decode, where their rows are, and which tokens are on their way."""

    def __init__(self) -> None:
        self.rows: list[Running] = []
        self.places: list[int] = []
        self._tokens = mx.zeros((0,), dtype=mx.uint32)  # inputs of the next pass
        self._logprobs: dict[int, mx.array] = {}  # by request: those that the tokens were chosen by
        self._chooser = Chooser([], [], 0)

    @property
    def idle(self) -> bool:
        """Whether another pass would produce nothing: every token on its way is its request's last."""
        return all(row.gone or row.ends_next for row in self.rows)

    @property
    def inputs(self) -> mx.array:
        """The tokens that the next pass starts from, (width,)."""
        return self._tokens

    def rearranged(self, joining: Sequence[Running], places: Sequence[int], width: int) -> None:
        """Take over a new arrangement: the rows that stay, then `joining`, at these places."""
        kept = [(row, place) for row, place in zip(self.rows, self.places, strict=True) if not row.gone]
        lasts = [row.prompt[-1] for row in joining]
        if kept:
            sources = [place for _, place in kept] + [
                self._tokens.size + index for index in range(len(lasts))
            ]
            known = mx.concatenate([self._tokens, mx.array(lasts, dtype=mx.uint32)])
            self._tokens = known[mx.array(_by_place(places, sources, width))]
        else:
            self._tokens = mx.array(_by_place(places, lasts, width), dtype=mx.uint32)
        self.rows = [*(row for row, _ in kept), *joining]
        self.places = list(places)
        self._chooser = Chooser(self.rows, self.places, width)

    def choose(self, logits: mx.array) -> tuple[mx.array, dict[int, mx.array]]:
        """The tokens that follow the pass of `inputs`; see `Chooser.choose`."""
        return self._chooser.choose(logits, self._tokens)

    def read(self, chosen: tuple[mx.array, dict[int, mx.array]] | None) -> list[Output]:
        """The tokens on their way, to be sent; `chosen` are on their way from now on, if a pass was run."""
        tokens: Any = self._tokens.tolist()
        ready = [
            (row, tokens[place])
            for row, place in zip(self.rows, self.places, strict=True)
            if not row.gone and not row.fresh
        ]
        logprobs = self._read_logprobs(ready)
        outputs = [_output(row, token, logprobs.get(row.request, ())) for row, token in ready]
        if chosen is not None:
            self.took(chosen)
        return outputs

    def took(self, chosen: tuple[mx.array, dict[int, mx.array]]) -> None:
        """These are on their way from now on."""
        self._tokens, self._logprobs = chosen
        for row in self.rows:
            row.fresh = False

    def _read_logprobs(self, ready: Sequence[tuple[Running, int]]) -> dict[int, tuple[TokenLogprobs, ...]]:
        asking = [(row, token) for row, token in ready if row.request in self._logprobs]
        if not asking:
            return {}
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
