"""Prompts on their way into the KV cache: who waits, who is computed together, and how much of whom comes next.

A group is computed together from start to end and then decodes together. What follows a prompt's last token is the first
token of the answer, so that one is computed with the others where that is of use and there is room, and else left to the next
decode step.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

    from pensieved.engine.worker.passes.runner import Runner
    from pensieved.engine.worker.passes.shapes import Shapes
    from pensieved.engine.worker.running import Running, Snapshot

MOST_TOGETHER = 8
"""Prompts in a group."""
LEAST = 16
"""Tokens for which a further group is not worth its launches, unless they are its last."""


class Keeper(Protocol):
    """Remembers KV caches of prompts and answers: a prompt cache."""

    is_open: bool
    """Whether it wants to know of requests now; otherwise it knows nothing of any."""

    def fetch(self, row: Running, capacity: int) -> list[Future[Any]]:
        """What the row, which will have room for so many tokens, should wait for, because it could start from it."""

    def recall(self, row: Running) -> tuple[Snapshot, int] | None:
        """A cache of the first tokens of the row's prompt, and how many; fewer than it has."""

    def sets_apart(self, row: Running) -> bool:
        """Whether the row has something to start from, or to stop for."""

    def awaits(self, row: Running, other: Running) -> bool:
        """Whether the row could start from what is kept of `other`, which is being computed, and gains by that."""

    def stops(self, row: Running) -> tuple[int, ...]:
        """After how many tokens of the row's prompt `keep` wants to see it, rising."""

    def keep(self, row: Running, length: int, cut: Callable[..., Snapshot]) -> None:
        """The row's prompt and answer have come as far as `length`; `cut` gives their cache from a position on, or to one."""


class Group:
    """Prompts that are computed together.

    Args:
        answering: whether their last tokens can be computed with the others; see `Shapes`.

    Attributes:
        rows: the requests.
        prompt: the runner's own.
        done: tokens of each that are in the cache.
    """

    def __init__(self, rows: Sequence[Running], prompt: Any, *, answering: bool = False) -> None:
        self.rows = list(rows)
        self.prompt = prompt
        self.done = rows[0].cached
        self._answering = answering and len({len(row.prompt) for row in rows}) == 1

    @property
    def left(self) -> int:
        """Tokens still to be computed, of its longest prompt, but for its last."""
        return max(len(row.prompt) for row in self.rows) - 1 - self.done

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(row.gone for row in self.rows)

    def until_stop(self) -> int:
        """Tokens that may be computed at once."""
        ahead = [stop - self.done for row in self.rows for stop in row.stops if stop > self.done]
        return min([self.left, *ahead])

    def with_last(self, length: int, room: int) -> int:
        """So many tokens, and the prompts' last ones if they are next and there is room for so many of each row."""
        return length + 1 if self._answering and length == self.left < room else length

    def ends_after(self, length: int) -> bool:
        """Whether so many tokens more bring the last ones."""
        return length > self.left

    def chunk(self, length: int) -> list[tuple[int, ...]]:
        """The next tokens of each row; but for its last, unless all end there."""
        end = self.done + length
        return [
            row.prompt[self.done : end if self.ends_after(length) else min(end, len(row.prompt) - 1)]
            for row in self.rows
        ]


class Prefill:
    """All prompts that are not in the cache yet.

    Args:
        runner: computes them.
        shapes: the device's policy.
        keeper: prompt cache, if there is one.
    """

    def __init__(self, runner: Runner, shapes: Shapes, keeper: Keeper | None = None) -> None:
        self._runner = runner
        self._shapes = shapes
        self._keeper = keeper
        self._waiting: deque[Running] = deque()
        self._groups: list[Group] = []
        self._turn = self._turn_of_pausing = 0

    def __len__(self) -> int:
        waiting = sum(not row.gone for row in self._waiting)
        return waiting + sum(not row.gone for group in self._groups for row in group.rows)

    def add(self, row: Running) -> None:
        """A new request."""
        self._waiting.append(row)

    def admit(self, free: int, budget: int) -> None:
        """Begin with those who wait, as long as fewer than `free` are under way.

        Args:
            free: requests that there is room for besides those that decode.
            budget: tokens of a group at the most, padding included, unless it is a single prompt.
        """
        self._groups = [group for group in self._groups if not group.is_gone]
        self._waiting = deque(row for row in self._waiting if not row.gone)
        free -= sum(len(group.rows) for group in self._groups)
        while free > 0 and (first := self._next_row()) is not None:
            rows = self._group_of(first, free, budget)
            lengths = [self._shapes.own(len(row.prompt)) for row in rows]
            prompt = self._runner.open(lengths, first.prefix, first.cached)
            first.prefix = None
            self._groups.append(Group(rows, prompt, answering=self._shapes.answering))
            free -= len(rows)

    def plan(self, budget: int, *, beside: bool, busy: Collection[Group] = ()) -> list[tuple[Group, int]]:
        """Which groups go on with the next step, and by how many tokens.

        Args:
            budget: tokens, of all groups together.
            beside: whether somebody decodes. What pauses for them is left out then; see `plan_pausing`.
            busy: groups that are left out, too.
        """
        self._turn += 1
        planned: list[tuple[Group, int]] = []
        for group in self._in_turn(self._turn):
            if group in busy or (beside and self._pausing(group)):
                continue
            room = budget // len(group.rows)
            length = group.until_stop()
            whole = self._shapes.padded and len(group.rows) > 1
            if planned and room < (length if whole else min(length, LEAST)):
                continue
            length = length if whole else self._shapes.take(length, room)
            if not beside:
                length = min(length, self._pausing(group) or length)
            length = group.with_last(length, room)
            planned.append((group, length))
            if self._shapes.apart:  # a second one would be a further pass
                break
            budget -= self._shapes.chunk(length) * len(group.rows)
        return planned

    def plan_pausing(self, busy: Collection[Group], *, ending: bool) -> list[tuple[Group, int]]:
        """Which groups go on with a pass that pauses for those who decode, and by how many tokens; none, if there are none for one.

        Args:
            busy: groups that are left out.
            ending: whether it is only for prompts which that computes to their ends. Such go with the first one in any case.
        """
        planned: list[tuple[Group, int]] = []
        room = self._shapes.pausing
        self._turn_of_pausing += 1
        for group in self._in_turn(self._turn_of_pausing):
            length = 0 if group in busy else self._pausing(group)
            if not length or ((planned or ending) and length < group.left):
                continue
            if len(group.rows) * length <= room or not planned:
                length = group.with_last(length, room // len(group.rows))
                planned.append((group, length))
                room -= len(group.rows) * length
        return planned

    def went(self, planned: Sequence[tuple[Group, int]]) -> None:
        """The chunks were set off."""
        for group, length in planned:
            before, group.done = group.done, group.done + length
            if self._keeper is not None:
                for index, row in enumerate(group.rows):
                    for stop in row.stops:
                        if before < stop <= group.done:
                            cut = partial(self._runner.prompt_snapshot, group.prompt, index)
                            self._keeper.keep(row, stop, cut)

    def finished(self) -> list[Group]:
        """Groups that are in the cache, all but each one's last token at the most; they are handed over."""
        done = [group for group in self._groups if group.left <= 0]
        self._groups = [group for group in self._groups if group.left > 0]
        return done

    def _in_turn(self, turn: int) -> list[Group]:
        """Those that are not computed yet, in the order in which they go on.

        The oldest group and the one that is nearest to its end take turns in being the first: a long prompt is not
        starved by short ones, nor do they wait for all of it.
        """
        open_groups = [group for group in self._groups if group.left > 0]
        if turn % 2:
            open_groups.sort(key=lambda group: group.left)
        return open_groups

    def _pausing(self, group: Group) -> int:
        """How many tokens a pass has that pauses for others, if the next one of the group is such; else 0."""
        length = min(group.until_stop(), max(1, self._shapes.pausing // len(group.rows)))
        return length if length > 0 and self._runner.pauses([(group.prompt, length)]) else 0

    def _next_row(self) -> Running | None:
        """The request that waits longest, unless another is just computing what it begins with."""
        for row in self._waiting:
            if not self._is_ahead(row):
                self._waiting.remove(row)
                self._look_up(row)
                return row
        return None

    def _is_ahead(self, row: Running) -> bool:
        """Whether what is under way is worth being awaited by `row`."""
        keeper = self._keeper
        if keeper is None:
            return False
        return any(
            keeper.awaits(row, other)
            for group in self._groups
            for other in group.rows
            if other.stops and not other.gone and group.done < other.stops[-1]
        )

    def _group_of(self, first: Running, free: int, budget: int) -> list[Running]:
        """The row, and others that go well with it."""
        rows = [first]
        if first.cached or first.stops:
            return rows
        longest = len(first.prompt)
        for row in list(self._waiting):
            most = max(longest, len(row.prompt))
            if len(rows) >= min(free, MOST_TOGETHER) or (len(rows) + 1) * self._shapes.chunk(most) > budget:
                break
            if abs(len(row.prompt) - len(first.prompt)) > self._shapes.slack:
                continue
            if self._keeper is None or not self._keeper.sets_apart(row):
                rows.append(row)
                longest = most
        rows = rows[: self._shapes.group(len(rows))]
        for row in rows[1:]:
            self._waiting.remove(row)
            self._look_up(row)
        return rows

    def _look_up(self, row: Running) -> None:
        if self._keeper is None:
            return
        found = self._keeper.recall(row)
        row.prefix, row.cached = found or (None, 0)
        row.stops = self._keeper.stops(row)
