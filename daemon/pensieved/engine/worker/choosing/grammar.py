"""Grammars made ready for decoding: the vocabulary as a trie, and a matcher for each request.

All of it happens on threads beside the loop. llguidance is imported and the trie built when the first grammar comes, not at
load: it costs about 0.7 s and 60 MB for a vocabulary of 49k tokens, and most engines never meet a grammar. (llguidance holds the
interpreter's lock while it builds the trie, so that one moment is a hitch for whoever decodes; compiling a grammar,
which an unkind schema can stretch to a second, happens without the lock.)

Errors say what failed and no more: llguidance's own would quote the request, and prompts and answers reach no log. The
client has had the reasons for a bad schema from the daemon, which compiles each grammar before it sends it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pensieved.engine.worker.choosing.constraint import Constraint
from pensieved.engine.worker.refusal import RefusedRequestError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from llguidance import LLTokenizer

    from pensieved.engine.protocol import Submit

COMPILERS = 2
"""Threads: one slow grammar does not keep the others waiting."""


class Grammars:
    """Makes the constraints for one model.

    Args:
        folder: the model's, with its `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tokenizer.json"
        self._building = threading.Lock()
        self._tries: dict[
            tuple[int, ...], LLTokenizer
        ] = {}  # in practice one: a model's stop tokens are its own
        self._threads = ThreadPoolExecutor(COMPILERS, thread_name_prefix="grammar")

    def compile(self, submit: Submit, vocabulary: int) -> Future[Constraint]:
        """The constraint for a request, as soon as it is ready; the future raises RefusedRequestError.

        Args:
            submit: the request.
            vocabulary: size of the model's logits, which may be padded beyond the tokenizer's vocabulary.
        """
        return self._threads.submit(self._compile, submit, vocabulary)

    def _compile(self, submit: Submit, vocabulary: int) -> Constraint:
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415  not before the first grammar: 3 MB

        stop_tokens = tuple(token for token in submit.stop_tokens if 0 <= token < vocabulary)
        if not stop_tokens:
            raise RefusedRequestError("A grammar needs stop tokens, or its answer could not end.")
        trie = self._trie(stop_tokens, vocabulary)
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(trie, submit.grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise RefusedRequestError("The grammar cannot be compiled.")
        earlier = list(submit.prompt[len(submit.prompt) - submit.position :])
        if not matcher.consume_tokens(earlier):
            raise RefusedRequestError("The answer so far does not follow the grammar.")
        constraint = Constraint(matcher, vocabulary, stop_tokens)
        if constraint.failure:
            raise RefusedRequestError(constraint.failure)
        return constraint

    def _trie(self, stop_tokens: tuple[int, ...], vocabulary: int) -> LLTokenizer:
        with self._building:
            if stop_tokens not in self._tries:
                self._tries.clear()
                self._tries[stop_tokens] = self._build(list(stop_tokens), vocabulary)
            return self._tries[stop_tokens]

    def _build(self, stop_tokens: list[int], vocabulary: int) -> LLTokenizer:
        from llguidance import LLTokenizer  # noqa: PLC0415  as above

        try:
            tokenizer = self._path.read_text(encoding="utf-8")
            try:
                return LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=stop_tokens)
            except ValueError:  # most likely the tokenizer knows more tokens than the model
                return LLTokenizer(tokenizer, eos_token=stop_tokens)
        except (OSError, ValueError) as error:
            raise RefusedRequestError(f"This model's tokenizer cannot follow a grammar: {error}") from error
