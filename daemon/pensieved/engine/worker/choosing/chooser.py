"""From the logits of a step to the tokens of its rows: as few calls as there are different samplers.

Probabilities are computed for those who want them, and rows without processors need no treatment of their own: the
common step is one argmax. All of it stays on the device; whoever must know a token (a grammar) waits for it alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
from mlx_lm.models.cache import TokenBuffer

from pensieved.engine.worker.choosing.logprobs import normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.engine.worker.choosing.sampling import Sampler
    from pensieved.engine.worker.running import Running


class Chooser:
    """Chooses for the rows of one arrangement.

    Args:
        rows: the requests.
        places: where the logits of each are.
        width: rows of the logits.
    """

    def __init__(self, rows: Sequence[Running], places: Sequence[int], width: int) -> None:
        self._groups: dict[int, tuple[Sampler, list[Running]]] = {}
        self._place = dict(zip(map(id, rows), places, strict=True))
        for row in rows:
            if row.processors and row.context is None:
                row.context = TokenBuffer(list(row.prompt[:-1]))  # type: ignore[no-untyped-call]  # mlx-lm has no types
            self._groups.setdefault(id(row.sampler), (row.sampler, []))[1].append(row)
        for _, members in self._groups.values():
            members.sort(key=lambda row: bool(row.processors))  # so that what needs no treatment is one piece
        order = {id(row): index for index, row in enumerate(self._in_order())}
        at = {place: order[key] for key, place in self._place.items()}
        self._back = mx.array([at.get(place, 0) for place in range(width)])
        self._uniform = len(self._groups) == 1 and not any(row.processors for row in rows)
        self._asking = [row for row in rows if row.logprobs is not None]

    def choose(self, logits: mx.array, inputs: mx.array) -> tuple[mx.array, dict[int, mx.array]]:
        """The next tokens, (width,), and the log-probabilities, (1, vocabulary), of requests that want them.

        Args:
            logits: (width, vocabulary).
            inputs: (width,): the tokens that led to them.
        """
        if self._uniform and not self._asking:
            ((sampler, _),) = self._groups.values()
            return sampler(logits), {}
        chosen, asked = [], {}
        for sampler, members in self._groups.values():
            treated = self._treated(members, logits, inputs)
            chosen.append(sampler(treated))
            for index, row in enumerate(members):
                if row.logprobs is not None:
                    asked[row.request] = normalised(treated[index : index + 1])
        return mx.concatenate(chosen)[self._back], asked

    def _in_order(self) -> list[Running]:
        return [row for _, members in self._groups.values() for row in members]

    def _treated(self, members: Sequence[Running], logits: mx.array, inputs: mx.array) -> mx.array:
        """The logits of some rows, (rows, vocabulary), after their processors."""
        plain = [self._place[id(row)] for row in members if not row.processors]
        pieces = []
        if plain:
            pieces.append(logits if plain == list(range(len(logits))) else logits[mx.array(plain)])
        for row in members:
            if row.context is not None:
                place = self._place[id(row)]
                last = inputs[place : place + 1]
                context = row.context.update_and_fetch(last)  # type: ignore[no-untyped-call]  # nor here
                mine = logits[place : place + 1]
                for processor in row.processors:
                    mine = processor(context, mine)
                pieces.append(mine)
        return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)


def choose_first(rows: Sequence[Running], logits: mx.array) -> list[mx.array]:
    """Choose the first tokens of answers by the logits, (rows, vocabulary), of the prompts' last tokens; what is to be evaluated for them."""
    inputs = mx.array([row.prompt[-1] for row in rows], dtype=mx.uint32)
    tokens, asked = Chooser(rows, range(len(rows)), len(rows)).choose(logits, inputs)
    for place, row in enumerate(rows):
        mine = {row.request: asked[row.request]} if row.request in asked else {}
        row.first = tokens[place : place + 1], mine
    return [tokens, *asked.values()]
