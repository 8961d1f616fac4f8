"""Grammars in the step loop: each step, which tokens each constrained request may continue with.

A step's graph is built before the tokens that the previous step chose are known; they are only ever handled as
arrays still being computed. A grammar must know them, so a constrained step waits where an unconstrained one does
not. It waits as late as possible and for nothing else:

- the forward pass is set off first, so the device computes logits while the masks are made;
- what is waited for is the array that the row's own sampler returned in the previous step. It is computed already
  or about to be; anything derived from it now would queue up behind the forward pass;
- the first row to ask makes the masks of all rows of the step, in parallel, and without the interpreter's lock.

The mask is the last processor, behind bias and penalties: whatever those do, what remains follows the grammar. A
matcher that gives up (a grammar too complex for llguidance's limits) ends its own request, nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from llguidance import LLExecutor, LLMatcher
    from numpy.typing import NDArray

    from pensieved.engine.worker.choosing.sampling import Sampler


class Constraint:
    """The grammar of one request and how far its answer has come in it.

    Args:
        matcher: has consumed the answer so far.
        vocabulary: size of the logits.
        stop_tokens: ids that end the answer.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int, stop_tokens: Collection[int]) -> None:
        from llguidance.numpy import allocate_token_bitmask  # noqa: PLC0415  not before the first grammar: 3 MB

        self.matcher = matcher
        self.failure = ""  # why the request must end
        self._stop_tokens = frozenset(stop_tokens)
        self._chosen: mx.array | None = None  # the token after `_allowed`, maybe still being computed
        self._allowed = np.ones(vocabulary, dtype=bool)
        words = allocate_token_bitmask(1, vocabulary)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self.allow(words[0])

    @property
    def is_due(self) -> bool:
        """Whether a token was chosen that the matcher has not seen."""
        return self._chosen is not None

    def advance(self) -> bool:
        """Show the matcher the chosen token, waiting for it; whether the answer goes on."""
        if self._chosen is None:
            return False
        token: Any = self._chosen.item()
        self._chosen = None
        if token in self._stop_tokens or self.failure:
            return False
        self.matcher.consume_token(token)
        return not self._has_failed()

    def allow(self, words: NDArray[np.int32]) -> None:
        """Take the mask of the next token, a bit each in 32-bit words."""
        if not self._has_failed():
            bits = np.unpackbits(words.view(np.uint8), count=self._allowed.size, bitorder="little")
            self._allowed = bits.view(bool)

    def masked(self, logits: mx.array) -> mx.array:
        """Logits (1, vocabulary) of what the grammar allows, -inf elsewhere."""
        return mx.where(mx.array(self._allowed), logits, mx.array(-mx.inf, logits.dtype))

    def remembering(self, sampler: Sampler) -> Sampler:
        """`sampler`, whose choice this constraint will see at the next step."""

        def sample(logits: mx.array) -> mx.array:
            self._chosen = sampler(logits)
            return self._chosen

        return sample

    def _has_failed(self) -> bool:
        if not self.failure and self.matcher.is_error():
            # The library's own text would quote the answer.
            self.failure = (
                "The grammar cannot be followed: it is too complex, leads nowhere, or demands what the model has no"
                f" token for ({self.matcher.stop_reason()})."
            )
        return bool(self.failure)


class Constraints:
    """The constrained rows of a batch."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._executor: LLExecutor | None = None  # its threads start with the first constraint
        self._rows: dict[int, Constraint] = {}

    def add(self, request: int, constraint: Constraint) -> None:
        """From now on `constraint` steps with the batch."""
        self._rows[request] = constraint

    def remove(self, request: int) -> None:
        """Forget a request, constrained or not."""
        self._rows.pop(request, None)

    def failures(self) -> list[tuple[int, str]]:
        """Requests whose grammar gave up, and why."""
        return [(request, row.failure) for request, row in self._rows.items() if row.failure]

    def apply(self, constraint: Constraint, _tokens: mx.array, logits: mx.array) -> mx.array:
        """One row's masked logits; called for row after row while a step's graph is built."""
        if constraint.is_due:
            mx.async_eval(logits)  # type: ignore[no-untyped-call]  # mlx's stub lacks its types
            self._step()
        return constraint.masked(logits)

    def _step(self) -> None:
        """Bring every row up to its chosen token. Those that have none joined since, and have their mask."""
        going_on = [row for row in self._rows.values() if row.is_due and row.advance()]
        self._fill(going_on)

    def _fill(self, rows: Sequence[Constraint]) -> None:
        if not rows:
            return
        from llguidance import LLExecutor  # noqa: PLC0415  as above
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par  # noqa: PLC0415

        words = allocate_token_bitmask(len(rows), self._vocabulary)
        self._executor = self._executor or LLExecutor()
        fill_next_token_bitmask_par(
            self._executor, [(row.matcher, place) for place, row in enumerate(rows)], words
        )
        for row, mask in zip(rows, words, strict=True):
            row.allow(mask)
