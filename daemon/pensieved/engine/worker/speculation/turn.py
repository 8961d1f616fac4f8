"""A turn of the loop with drafts: read what is on its way, draft, compute, and keep what was foretold right.

Plain turns mostly read a pass's tokens while the next one runs. Drafts need the last token first, so a turn with drafts waits
for it; whether that is likely to be worth it is asked before, of what is known without it. A draft is kept as far as the greedy
choice agrees with it, so the text is the one that would have come anyway; only greedy rows whose logits nobody else
touches or wants have drafts, others go along in the same pass.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.sample_utils import greedy_sampler

from pensieved.engine.protocol import SpeculationStats
from pensieved.engine.worker.decode import joined, produced
from pensieved.engine.worker.passes.flat import Flat
from pensieved.engine.worker.speculation.gain import MOST_ROWS, Gain
from pensieved.engine.worker.speculation.history import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pensieved.engine.protocol import Output
    from pensieved.engine.worker.decode import Decoder
    from pensieved.engine.worker.passes.runner import Runner
    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.running import Running


class Speculation:
    """Drafts for the rows of a batch.

    Args:
        runner: runs the passes.
        gain: knows what pays.
    """

    def __init__(self, runner: Flat, gain: Gain | None = None) -> None:
        self._runner = runner
        self._gain = gain or Gain()
        self._histories: dict[int, tuple[Running, History]] = {}
        self._seen: tuple[float, int] | None = (
            None  # when the last plain pass's tokens were read, and its rows
        )
        self._drafted = 0
        self._accepted = 0

    @property
    def stats(self) -> SpeculationStats:
        """Tokens drafted and found right, so far."""
        return SpeculationStats(self._drafted, self._accepted)

    def promises(self, decoder: Decoder) -> bool:
        """Whether drafts are likely to pay in the next turn."""
        if not decoder.rows or len(decoder.rows) > MOST_ROWS:
            return False
        return any(self._gain.lengths([self._chance(row) for row in decoder.rows]))

    def rest(self) -> None:
        """Nothing ran for a while: the next plain pass has no previous one."""
        self._seen = None

    def watch(self, decoder: Decoder, *, passed: bool, prompts: bool) -> None:
        """Learn from a turn without drafts, after its tokens were read.

        Args:
            decoder: whose rows they are.
            passed: whether it set off a pass.
            prompts: whether that computed prompts as well.
        """
        rows, now = len(decoder.rows), time.perf_counter()
        last, self._seen = self._seen, (now, rows) if passed and not prompts else None
        if last is not None and self._seen is not None and last[1] == rows:
            self._gain.took(now - last[0], rows)
        if rows <= MOST_ROWS:
            self._follow(decoder)

    def turn(self, decoder: Decoder) -> list[Output]:
        """A turn with drafts, if they still pay when the last token is known; what was produced."""
        self._seen = None
        outputs = decoder.read()
        if all(row.gone for row in decoder.rows):
            return outputs
        self._follow(decoder)
        drafts = self._drafts(decoder)
        if drafts:
            outputs = self._verified(decoder, drafts, outputs)
        else:
            logits, rest = self._runner.run(decoder.inputs, [])
            chosen = decoder.choose(logits)  # type: ignore[arg-type]  # there are rows, so there are logits
            mx.async_eval(chosen, rest)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
            decoder.took(chosen)
        return decoder.and_those_at_once(outputs)

    def _follow(self, decoder: Decoder) -> None:
        """Take in what the rows have said."""
        rows = {row.request: row for row in decoder.rows if not row.gone and _drafts_for(row)}
        for request in self._histories.keys() - rows.keys():
            del self._histories[request]
        for request, row in rows.items():
            known, history = self._histories.get(request, (None, None))
            if (
                history is None or known is not row
            ):  # one that was put back is another row, with a longer prompt
                history = History(row.ids)
                self._histories[request] = row, history
            history.follow(row.answer)

    def _chance(self, row: Running) -> float:
        known, history = self._histories.get(row.request, (None, None))
        return 0.0 if history is None or known is not row or row.gone or row.ends_next else history.chance

    def _drafts(self, decoder: Decoder) -> list[tuple[Running, int, list[int]]]:
        """The rows that have a draft, their places, and the draft."""
        lengths = self._gain.lengths([self._chance(row) for row in decoder.rows])
        return [
            (row, place, self._histories[row.request][1].draft(min(length, row.max_tokens - len(row.answer))))
            for row, place, length in zip(decoder.rows, decoder.places, lengths, strict=True)
            if length
        ]

    def _verified(
        self, decoder: Decoder, drafts: Sequence[tuple[Running, int, list[int]]], outputs: Sequence[Output]
    ) -> list[Output]:
        """Run the pass; what the rows produced, the tokens of `outputs` first."""
        started = time.perf_counter()
        logits, starts, met = self._runner.verify(
            decoder.inputs, [(place, draft) for _, place, draft in drafts]
        )
        width = decoder.inputs.size
        tokens, logprobs = decoder.choose(logits[:width])
        foretold = mx.argmax(logits[width:], axis=-1)
        mx.eval(tokens, foretold, *logprobs.values())
        drafted = sum(len(draft) for _, _, draft in drafts)
        self._gain.took(time.perf_counter() - started, len(decoder.rows), drafted, met=met)
        following: Any = tokens.tolist()
        choices: Any = foretold.tolist()
        results = {output.request: output for output in outputs}
        kept = {}
        for (row, place, draft), start in zip(drafts, starts, strict=True):
            chosen = [following[place], *choices[start - width : start - width + len(draft)]]
            right = _agreement(draft, chosen)
            following[place] = chosen[right]
            more = produced(row, draft[:right])
            kept[place] = len(more.tokens) if more else 0
            if more:
                results[row.request] = joined(results.get(row.request), more)
            self._accepted += right
        self._drafted += drafted
        self._runner.advance(kept)
        decoder.took((mx.array(following, dtype=tokens.dtype), logprobs))
        return list(results.values())


def speculation_for(runner: Runner, shapes: Shapes) -> Speculation | None:
    """Drafts, where a runner's rows can be set back and a pass of another shape is not dear (CUDA plans each anew)."""
    return Speculation(runner) if isinstance(runner, Flat) and not shapes.padded else None


def _drafts_for(row: Running) -> bool:
    return row.sampler is greedy_sampler and not row.processors and row.logprobs is None


def _agreement(draft: Sequence[int], chosen: Sequence[int]) -> int:
    """How many tokens of the draft were chosen."""
    pairs = zip(draft, chosen, strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), len(draft))
