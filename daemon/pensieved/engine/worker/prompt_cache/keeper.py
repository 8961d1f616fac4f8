"""The prompt cache as the batch sees it: what to start a prompt from, where to stop for a snapshot, what to keep."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import mlx.core as mx

from pensieved.engine.protocol import PromptCacheStats, Recalled
from pensieved.engine.worker.prompt_cache.entry import Entry, Filed, agreeing, as_tokens
from pensieved.engine.worker.prompt_cache.forms import FormError, joined, put_together, taken_apart
from pensieved.engine.worker.prompt_cache.lending import Lending
from pensieved.engine.worker.prompt_cache.memory import Memory
from pensieved.engine.worker.prompt_cache.spans import Spans
from pensieved.engine.worker.prompt_cache.wholes import Wholes

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pensieved.engine.worker.prompt_cache.disk import Disk, Read
    from pensieved.engine.worker.prompt_cache.policy import Policy
    from pensieved.engine.worker.prompt_cache.spans import Match
    from pensieved.engine.worker.running import Running, Snapshot


MOMENT = 0.001
"""Seconds of a step that may go into what is to be written to disk."""


class PromptCache:
    """KV caches of what was computed before; a `Keeper`.

    Args:
        plain: whether the model's caches can be cut anywhere.
        policy: what is worth it.
        budget: bytes of memory at most.
        report: told of each request what was found for it, before it is begun.
        disk: where entries outlive the engine, if anywhere.
    """

    def __init__(
        self,
        *,
        plain: bool,
        policy: Policy,
        budget: int,
        report: Callable[[Recalled], object],
        disk: Disk | None = None,
    ) -> None:
        self.is_open = True
        self._policy = policy
        self._report = report
        self._disk = disk
        self._known: Spans | Wholes = Spans() if plain else Wholes()
        self._most = budget
        self._memory = Memory(budget, self._forget)
        self._reading: dict[Entry, Future[Read | None]] = {}
        self._lending = Lending()
        self._settle()

    @property
    def stats(self) -> PromptCacheStats:
        """What is held."""
        disk = self._disk.usage if self._disk else (0, 0)
        return PromptCacheStats(len(self._memory), self._memory.used, *disk)

    @property
    def used(self) -> int:
        """Bytes of memory that it holds."""
        return self._memory.used

    def bound(self, budget: int) -> None:
        """Hold no more than `budget` bytes of memory from now on, and never more than it was made for."""
        self._memory.budget = min(self._most, budget)
        self.shed(self._memory.budget)

    def shed(self, budget: int) -> int:
        """Let go of memory until no more than `budget` bytes are held; returns what was freed."""
        before = self._memory.used
        self._memory.shed(budget)
        return before - self._memory.used

    def write_on(self) -> bool:
        """Go on with what is to be written to disk, for a moment; whether there is more."""
        return self._disk is not None and self._disk.export(MOMENT)

    def fetch(self, row: Running, capacity: int) -> list[Future[Read | None]]:
        """Begin to read what the row could start from and is on disk alone; it should wait for these.

        Args:
            row: a new request.
            capacity: tokens that it will have room for.
        """
        if self._disk is None or not self.is_open:
            return []
        self._settle()
        match = self._known.match(row.ids[:-1])
        for found in (match.entry, match.here):
            self._lending.share(found.lineage() if found is not None else ())
        if match.entry is None or not self._is_worth_reading(match, match.entry.lineage()):
            return []
        absent = [each for each in match.entry.lineage() if each.arrays is None]
        for entry in absent:
            if entry not in self._reading:
                alone = self._known.cuts and entry is match.entry and entry.end <= capacity
                self._reading[entry] = self._disk.read(entry, capacity if alone else 0)
                if alone:
                    self._lending.offer(entry, row.request)
        return [self._reading[entry] for entry in absent]

    def recall(self, row: Running) -> tuple[Snapshot, int] | None:
        """See `prefill.Keeper`."""
        if not self.is_open:
            return None
        self._settle()
        match = self._known.match(row.ids[:-1])
        found = None
        if match.here is not None and match.at_hand >= self._policy.taken:
            found = self._lend(match.here, match.at_hand, row) or self._take(match.here, match.at_hand)
        cached = match.at_hand if found else 0
        self._report(Recalled(row.request, cached, match.matched, match.instead))
        return (found, cached) if found else None

    def sets_apart(self, row: Running) -> bool:
        """See `prefill.Keeper`."""
        if not self.is_open:
            return False
        long = len(row.prompt) - 1 >= self._policy.stopped
        return long or self._known.match(row.ids[:-1]).at_hand >= self._policy.taken

    def awaits(self, row: Running, other: Running) -> bool:
        """See `prefill.Keeper`."""
        tokens = row.ids[:-1]
        shared = agreeing(tokens, other.ids)
        kept = [min(shared, stop) for stop in other.stops if self._known.cuts or stop <= shared]
        gain = self._policy.stopped
        return bool(kept) and kept[-1] >= gain and kept[-1] - self._known.match(tokens).at_hand >= gain

    def stops(self, row: Running) -> tuple[int, ...]:
        """See `prefill.Keeper`. A long prompt is kept before its answer ends: others may begin with it meanwhile."""
        last = len(row.prompt) - 1
        if not self.is_open or last - row.cached < self._policy.stopped:
            return ()
        if self._known.cuts:
            return (last,)
        stops: list[int] = []
        for place in sorted({*(each for each in row.breakpoints if each < last), last}):
            if place - (stops[-1] if stops else row.cached) >= self._policy.kept:
                stops.append(place)
        return tuple(stops)

    def keep(self, row: Running, length: int, cut: Callable[..., Snapshot]) -> None:
        """See `prefill.Keeper`."""
        if not self.is_open:
            return
        self._take_back(row, cut)
        if length < self._policy.lasting:
            return
        tokens = as_tokens((*row.prompt, *row.answer)[:length])
        match = self._known.match(tokens)
        start = match.at_hand if self._known.cuts else 0
        if match.at_hand == length or length - start < self._policy.kept:
            if match.here is not None:
                self._memory.touch(match.here)
            return
        form, arrays = taken_apart(cut(start, length) if self._known.cuts else cut(), plain=self._known.cuts)
        nbytes = sum(array.nbytes for array in arrays)
        entry = Entry(tokens, start, form, arrays, nbytes)
        if nbytes > self._memory.budget or not self._known.attach(entry):
            return
        mx.async_eval(arrays)  # type: ignore[no-untyped-call]  # copies, so that no larger array is held
        self._memory.add(entry, arrays)
        if length <= len(row.prompt) and length - max(start, row.cached) >= self._policy.filed:
            self._file(entry)

    def _is_worth_reading(self, match: Match, lineage: list[Entry]) -> bool:
        """Whether what is on disk alone gives enough for its size, and has room in memory."""
        gain = match.usable - match.at_hand
        tokens = sum(each.end - each.start for each in lineage if each.arrays is None)
        fits = sum(each.nbytes for each in lineage) <= self._memory.budget
        return gain >= self._policy.fetched and tokens <= self._policy.waste * gain and fits

    def _lend(self, entry: Entry, used: int, row: Running) -> Snapshot | None:
        """The first `used` tokens that `entry`, if it was read for the row alone, and what it continues hold: with room, and for good."""
        arrays = self._lending.lend(entry, row.request, used)
        if arrays is None:
            return None
        present = entry.lineage()
        self._lending.share(present[:-1])
        self._touch(present)
        for before, after in pairwise(present):
            for array, known in zip(arrays, before.arrays or (), strict=True):
                array[:, :, before.start : after.start] = known[:, :, : after.start - before.start]
        snapshot = put_together(entry.form, arrays)
        for layer in snapshot:
            layer.offset = used
        self._memory.remove(entry)
        return snapshot

    def _take_back(self, row: Running, cut: Callable[..., Snapshot]) -> None:
        """Copy what was lent to a row, now that somebody has the time for it."""
        loan = self._lending.returned(row.request)
        if loan is not None and loan.entry.arrays is None:
            _, used = taken_apart(cut(loan.entry.start, loan.used), plain=True)
            arrays = loan.whole(used)
            mx.async_eval(arrays)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
            self._memory.add(loan.entry, arrays)

    def _take(self, last: Entry, usable: int) -> Snapshot | None:
        """The first `usable` tokens that `last` and what it continues hold, as caches."""
        present = last.lineage()
        self._lending.share(present)
        self._touch(present)
        if last.end - last.start >= self._policy.refiled:
            self._file(last)
        ends = [*(each.start for each in present[1:]), usable]
        pieces = [
            (entry.arrays or (), 0, end - entry.start) for entry, end in zip(present, ends, strict=True)
        ]
        try:
            return put_together(last.form, joined(pieces) if self._known.cuts else pieces[0][0])
        except FormError:
            self._forget(last)
            return None

    def _touch(self, lineage: list[Entry]) -> None:
        """These were used, each continuing the one before."""
        self._memory.touch(lineage[-1])
        if self._disk is not None:
            self._disk.touch(lineage)

    def _file(self, entry: Entry) -> None:
        """Have `entry` written, and before it what it continues."""
        if self._disk is None:
            return
        self._lending.share(entry.lineage())
        for each in entry.lineage():
            if each.filed is Filed.NO and (each.arrays is None or not self._disk.write(each)):
                return

    def _settle(self) -> None:
        """Take in what came from the disk, and let go of what is no longer there."""
        if self._disk is None:
            return
        for entry, reading in list(self._reading.items()):
            if not reading.done():
                continue
            del self._reading[entry]
            read = reading.result()
            if read is None:
                self._forget(entry)
            elif not entry.gone and entry.arrays is None:
                self._memory.add(entry, self._lending.read(entry, read.arrays(), room=read.room))
        for entry in self._disk.lost():
            if entry.arrays is None:
                self._forget(entry)
        for entry in self._disk.found():
            if not self._known.attach(entry):
                self._disk.discard(entry)

    def _forget(self, entry: Entry) -> None:
        """Drop `entry` and all that continues it, wherever it is."""
        for each in self._known.detach(entry):
            self._lending.forget(each)
            each.gone = True
            self._memory.remove(each)
            if self._disk is not None:
                self._disk.discard(each)
