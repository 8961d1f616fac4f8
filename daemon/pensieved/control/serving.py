"""The model that answers: tokenizer and engine together, so that both switch in one assignment."""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pensieved.chat.tokenizer import ChatTokenizer
    from pensieved.engine.client import EngineClient
    from pensieved.models.manifest import Manifest


class Users:
    """The answers that are being made from one model; once closed, no further one begins.

    An answer that has begun is finished by the model it began with: whoever takes a model away closes this first,
    and then waits.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._closed = False

    def enter(self) -> bool:
        """Begin an answer; False when the model is being taken away."""
        with self._changed:
            self._count += not self._closed
            return not self._closed

    def leave(self) -> None:
        """End an answer that began."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let no further answer begin."""
        with self._changed:
            self._closed = True

    def wait_gone(self, timeout: float) -> bool:
        """Whether nobody uses the model any more, after at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, timeout)


@dataclass(frozen=True)
class ServingModel:
    """A resident model.

    `context_length` bounds prompt plus answer, in tokens. `cuts`: the prompt cache can take any part of what it holds;
    otherwise it needs to be told where prompts may part.
    """

    name: str
    aliases: tuple[str, ...]
    context_length: int
    loaded_at: float
    manifest: Manifest
    text: ChatTokenizer
    engine: EngineClient
    cuts: bool = True
    users: Users = field(default_factory=Users)

    def answers_to(self, name: str) -> bool:
        """Whether a request for `name` is meant for this model."""
        return name == self.name or any(fnmatch.fnmatchcase(name, alias) for alias in self.aliases)
