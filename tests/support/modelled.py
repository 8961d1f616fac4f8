"""A front whose model has a chat template and habits of its own, and says what the test wants."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.models.manifest import TokenizerFacts
from support.chat_templates import CHATML
from support.front import END, TOKENS, ids_of, running_front, serving_model
from support.tiny_tokenizers import byte_level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.front import Front

THINKS = TokenizerFacts(think_start="<think>", think_end="</think>")


@contextlib.contextmanager
def modelled_front(
    *answers: str,
    template: str | None = CHATML,
    facts: TokenizerFacts | None = None,
    context_length: int = 4096,
    end: str = END,
    tokens_per_step: int = 1,
    **server: Any,
) -> Iterator[Front]:
    """A front that gives `answers` one after the other, the last one for ever."""
    with running_front(tokens_per_step=tokens_per_step, **server) as front:
        text = ChatTokenizer(byte_level(), template, TOKENS, (), facts)
        model = serving_model(front.engine, context_length=context_length)
        front.daemon.serving = dataclasses.replace(model, text=text)
        queue = list(answers)
        front.engine.answer = lambda _: ids_of((queue.pop(0) if len(queue) > 1 else queue[0]) + end)
        yield front


def prompt_of(front: Front, number: int = -1) -> str:
    """The text of a prompt that was submitted."""
    ids = list(front.engine.submitted[number].prompt)
    return byte_level().decode(ids, skip_special_tokens=False)
