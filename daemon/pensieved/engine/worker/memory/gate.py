"""Requests that wait for memory, in the order in which they came, and what is reserved for those that run.

A request is reserved its whole prompt and the next `AHEAD` tokens of its answer, always from where it is: clients ask for
32,000 tokens and take 300, so reserving what they may take would leave most of the machine unused, and reserving none of
it would let in more than can be finished. Where answers do grow on and on together, the gate closes long before the
memory is used up, and if it comes to that nevertheless, the youngest is put back and goes on later from its own tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.engine.worker.refusal import RefusedRequestError

if TYPE_CHECKING:
    from pensieved.engine.protocol import MemoryStats
    from pensieved.engine.worker.memory.footprint import Footprint
    from pensieved.engine.worker.memory.guard import Guard
    from pensieved.engine.worker.running import Running

AHEAD = 512
"""Tokens of an answer for which memory is reserved beyond those that it has: about what most answers come to."""
RETRY = 0.1
"""Seconds after which the first in line tries again while nobody leaves."""
PATIENCE = 30.0
"""Seconds for which a request waits while nothing of ours runs, and so only others could give memory back."""
BRIEFLY = 1.0
"""Seconds of waiting that are nobody else's business: beyond, the daemon sends new requests away."""


class Gate:
    """Lets requests begin as memory allows.

    Args:
        guard: knows how much there is.
        footprint: knows how much requests take.
    """

    def __init__(self, guard: Guard, footprint: Footprint) -> None:
        self._guard = guard
        self._footprint = footprint
        self._line: list[Running] = []
        self._running: list[Running] = []
        self._lone: float | None = None  # since when the first in line waits while nothing runs
        self._waiting_since = 0.0
        self._tried = (float("-inf"), 0)  # when, and how many ran
        self._again = False  # whether as many ran the time before

    @property
    def stats(self) -> MemoryStats:
        """How things are. Newcomers are to be sent away while memory is short, or others wait for it already."""
        held = len(self._line)
        late = bool(held) and self._guard.clock() - self._waiting_since > BRIEFLY
        return self._guard.stats(held, closed=self._guard.closed or late)

    def check(self, prompt: int) -> None:
        """Refuse a request whose prompt of so many tokens can never be held here.

        Raises:
            RefusedRequestError: with the numbers.
        """
        most = self._guard.most
        needed = max(self._footprint.row(prompt + 1), self._footprint.prompt(prompt))
        if needed > most:
            raise RefusedRequestError(
                f"The prompt has {prompt} tokens and needs {_size(needed)} of memory; with this model there are {_size(most)}"
                f" for it, since {_size(self._guard.margin)} are left to the rest of the machine. Shorten the prompt, or"
                " lower memory.safety_margin, or serve a smaller model."
            )

    def bounded(self, prompt: int, max_tokens: int) -> int:
        """Tokens after which an answer to `prompt` tokens must end: as wanted, or where memory ends."""
        return max(1, min(max_tokens, self._footprint.fitting(self._guard.most) - prompt))

    def fitting(self, parts: int) -> int:
        """Tokens of the longest request that takes no more than one of so many parts of what requests could have."""
        return self._footprint.fitting(self._guard.most // parts)

    def add(self, row: Running) -> None:
        """A request that wants to begin; earlier ones, which may come back, are in front."""
        self._tidy()
        if not self._line:
            self._waiting_since, self._lone = self._guard.clock(), None
        self._line.append(row)
        self._line.sort(key=lambda each: each.request)
        self._tried = (float("-inf"), 0)

    def look(self) -> Running | None:
        """See how the memory is, now and then; a request that must be put back, if there is one."""
        if not self._guard.due:
            return None
        self._tidy()
        self._guard.look(self._reserved(self._running), busy=bool(self._running))
        if self._guard.nearly_out and len(self._running) > 1:
            youngest = max(self._running, key=lambda each: each.request)
            self._running.remove(youngest)
            return youngest
        return None

    def admitted(self) -> list[Running]:
        """Those that may begin now."""
        self._tidy()
        admitted: list[Running] = []
        while self._line and self._is_time() and self._fits(self._line[0]):
            admitted.append(self._line.pop(0))
            self._running.append(admitted[-1])
            self._waiting_since = self._guard.clock()
            self._tried = (float("-inf"), 0)
        return admitted

    @property
    def only_waiting(self) -> bool:
        """Whether requests wait and none runs."""
        return bool(self._line) and not self._running

    def given_up(self) -> tuple[Running, str] | None:
        """The first in line, if it waits in vain, and what to tell it."""
        if self._running or not self._line:
            self._lone = None
            return None
        now = self._guard.clock()
        self._lone = now if self._lone is None else self._lone
        if now - self._lone < PATIENCE:
            return None
        self._tried = (
            float("-inf"),
            0,
        )  # the next in line has waited as long: it gets one more try, then the same answer
        stats = self._guard.stats(len(self._line), closed=True)
        needed = self._reserved([self._line[0]])
        return self._line.pop(0), (
            f"There is too little memory at the moment: this request needs {_size(needed)}, and other programs leave"
            f" {_size(stats.available)}, of which {_size(stats.margin)} are kept free (memory.safety_margin)."
        )

    def _tidy(self) -> None:
        self._line = [row for row in self._line if not row.gone]
        self._running = [row for row in self._running if not row.gone]

    def _is_time(self) -> bool:
        """Whether to try again: looking at the machine's memory for each step would cost more than it tells."""
        now, running = self._guard.clock(), len(self._running)
        self._again = running == self._tried[1]
        if self._again and now - self._tried[0] < RETRY:
            return False
        self._tried = (now, running)
        return True

    def _fits(self, row: Running) -> bool:
        """Whether there is room for `row`. What one that has just left had is still to be given back: nothing is shed for that."""
        reserved = self._reserved(self._running)
        needed = self._reserved([*self._running, row]) - reserved
        return self._guard.has_room(needed, reserved, busy=bool(self._running), shed=self._again)

    def _reserved(self, rows: list[Running]) -> int:
        """Bytes that these requests may come to hold. Where a prompt's arrays are larger than its row, those count."""
        footprint = self._footprint
        lengths = [len(row.prompt) + min(row.max_tokens, len(row.answer) + AHEAD) for row in rows]
        prompts = [
            footprint.prompt(len(row.prompt)) - footprint.row(length)
            for row, length in zip(rows, lengths, strict=True)
            if row.fresh
        ]
        return footprint.together(lengths) + sum(size for size in prompts if size > 0)


def _size(size: int) -> str:
    """For people; the settings' own function would bring all of their library into this process."""
    return f"{size / 1024**3:.2f} GiB" if size >= 1024**3 else f"{size / 1024**2:.0f} MiB"
