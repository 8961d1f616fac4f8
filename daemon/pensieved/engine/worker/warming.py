"""Shapes that users will bring, met once before they do.

On CUDA the first pass of a new shape plans attention (50 ms on an H200) or compiles kernels (seconds, kept on disk from
then on), and a compiled step is traced for each shape. What a first wave of requests needs is met before the engine is
ready; the passes of long prompts afterwards, one at a time, once nobody has been there for a while. Whoever asks before that
is answered between two pieces. For a CPU nothing is compiled.

`rehearsal` has the passes; requests come and go here.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING

import mlx.core as mx

from pensieved.engine.protocol import Sampling, Submit
from pensieved.engine.worker.memory.device import give_back
from pensieved.engine.worker.passes.shapes import PLAIN
from pensieved.engine.worker.rehearsal import doubling, lengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pensieved.engine.worker.batch import Batch
    from pensieved.engine.worker.rehearsal import Expected

QUIET = 2.0
"""Seconds for which nobody must have been there: who asks again at once shall not find the device busy."""
WAVES = (48, 96)
"""Tokens of prompts that come together."""
CHUNKS_TRIED = 4
"""Chunks of a size whose cost is to be known."""
READERS = 8
"""Those who stream while a long prompt is met."""
STEADY = 8
"""Steps of theirs before it comes: what those take is to be known."""
IMPATIENCE = 30.0
"""Seconds of service without a break after which an engine counts as warm."""
MOMENT = 0.5
"""Seconds that a step takes at the most, where nothing had to be compiled for it."""
COMMON = Sampling(temperature=1.0)
RARER = (
    Sampling(temperature=1.0, top_p=0.9, top_k=20, min_p=0.05),
    Sampling(temperature=1.0, top_p=0.9, seed=1),
    Sampling(repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, logit_bias=((0, 1.0),)),
)


class WarmUp:
    """All of it for one batch, a piece at a time, so that requests which are there already are answered in between.

    Args:
        batch: without requests whenever this is told to go on.
        device: where it computes.
    """

    def __init__(self, batch: Batch, device: mx.Device) -> None:
        self._batch = batch
        self._compiles = device.type != mx.DeviceType.cpu
        self._soon = self._first() if self._compiles else iter(())
        self._later = self._further() if self._compiles else iter(())
        self._began = time.monotonic()
        self.warm = False
        self._met_all = False
        with batch.unremembered():
            sample(batch, Sampling())  # touches all weights
        self._asked = float("-inf")  # when somebody was there last
        self._served = 0.0  # seconds with somebody there since it last went on

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def go_on(self) -> bool:
        """Meet something, if this is the time for it; whether it was and there was anything left."""
        self._served = 0.0
        if self._met_all or (self.warm and time.monotonic() - self._asked < QUIET):
            return False
        with self._batch.unremembered():
            if self.warm:
                self._met_all = self._ends(self._later)
            elif self._ends(self._soon):
                self.warm, self._met_all = True, not self._compiles
                self._asked = time.monotonic()  # whoever waited for this is about to ask
        return not self._met_all

    @staticmethod
    def _ends(pieces: Iterator[None]) -> bool:
        """The next of them, if there is one; else what they all left behind is given back."""
        if next(pieces, pieces) is None:
            return False
        give_back()
        return True

    def leave_off(self) -> None:
        """Somebody is there. Where users have not stopped asking for long, they have met what they need: put off what is left."""
        now = time.monotonic()
        self._served += min(now - self._asked, MOMENT)  # longer: something was compiled, which is no service
        self._asked = now
        if not self.warm and (self._served > IMPATIENCE or not self._compiles):
            self._later = chain(self._soon, self._later)
            self.warm = True

    def _further(self) -> Iterator[None]:
        # Not asked for before they are due: how much memory there is, the batch is told later than this is made.
        yield from self._batch.further_passes()

    def _first(self) -> Iterator[None]:
        yield from self._batch.first_passes()
        for sampling in (COMMON, *RARER):
            for rows in (1, 2):  # one by itself is sampled in another way
                sample(self._batch, sampling, rows, logprobs=None if sampling is COMMON else 2)
                yield
        meet_mixed(self._batch)
        yield
        if self._batch.max_concurrent > 1:  # else no prompt is ever computed beside somebody who decodes
            yield from self._beside_streams(self._batch.expected)
        # Last: what was met long ago is not kept, and these come first.
        meet_in_turn(self._batch, self._batch.max_concurrent)
        yield
        for length in WAVES:
            for requests in reversed(doubling(self._batch.max_concurrent)):
                meet_together(self._batch, requests, length)
                yield

    def _beside_streams(self, expected: Expected) -> Iterator[None]:
        chunks = lengths(min(expected.busy_chunk, expected.later // CHUNKS_TRIED))
        for length in chunks[-1:] if expected.in_parts else chunks:
            learn_pace(self._batch, length)
            yield
        if expected.in_parts:  # each part is met where it will be
            meet_beside(self._batch, min(READERS, expected.rows - 1), expected.later)
            yield


def sample(batch: Batch, sampling: Sampling, rows: int = 1, logprobs: int | None = None) -> None:
    """So many short requests, from start to end."""
    _answer(batch, [_short(request, sampling, logprobs) for request in range(rows)])


def meet_mixed(batch: Batch) -> None:
    """A request of each kind of sampling, all at once: each is sampled apart from the others."""
    _answer(batch, [_short(request, kind) for request, kind in enumerate((Sampling(), COMMON, *RARER))])


def meet_together(batch: Batch, requests: int, length: int) -> None:
    """A wave: that rows join and leave is work as well, and on CUDA a graph of each number of copies."""
    _answer(batch, [Submit(request, (0,) * length, PLAIN + 1, ()) for request in range(requests)])


def meet_in_turn(batch: Batch, requests: int) -> None:
    """The same one by one: each joins those who decode already, and leaves some behind."""
    for request in range(requests):
        batch.insert(Submit(request, (0,) * WAVES[0], requests + 3, ()))
        batch.step()
    while len(batch):
        batch.step()


def learn_pace(batch: Batch, length: int) -> None:
    """A prompt beside somebody who decodes, in chunks of `length`: the first real one is to find some of the right size."""
    prompt = Submit(request=1, prompt=(0,) * (CHUNKS_TRIED * length + 1), max_tokens=1, stop_tokens=())
    _beside(batch, [Submit(request=0, prompt=(0,), max_tokens=1 << 30, stop_tokens=())], prompt, length)


def meet_beside(batch: Batch, readers: int, length: int) -> None:
    """A long prompt beside some who decode, as it will be."""
    reading = [Submit(request, (0,) * WAVES[0], 1 << 30, ()) for request in range(1, readers + 1)]
    _beside(batch, reading, Submit(request=0, prompt=(0,) * (length - 1), max_tokens=1, stop_tokens=()))


def _beside(batch: Batch, reading: Sequence[Submit], prompt: Submit, chunk: int | None = None) -> None:
    """The prompt, in chunks of so many tokens or as the batch has it, once those who decode have done so for a while."""
    for reader in reading:
        batch.insert(reader)
    for _ in range(STEADY):
        batch.step()
    batch.try_chunks(chunk)
    batch.insert(prompt)
    while not any(output.request == prompt.request for output in batch.step()):
        pass
    batch.try_chunks(None)
    for reader in reading:
        batch.remove(reader.request)


def _short(request: int, sampling: Sampling, logprobs: int | None = None) -> Submit:
    return Submit(request, (0,), PLAIN + 1, (), sampling=sampling, logprobs=logprobs)


def _answer(batch: Batch, submits: list[Submit]) -> None:
    for submit in submits:
        batch.insert(submit)
    while len(batch):
        batch.step()
