"""The model that answers: tokenizer and engine together, so that both switch in one assignment."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pensieved.chat.tokenizer import ChatTokenizer
    from pensieved.engine.client import EngineClient
    from pensieved.models.cache import Lease
    from pensieved.models.manifest import Manifest


@dataclass(frozen=True)
class ServingModel:
    """A resident model. `context_length` bounds prompt plus answer, in tokens; `lease` keeps its folder on disk."""

    name: str
    aliases: tuple[str, ...]
    context_length: int
    loaded_at: float
    manifest: Manifest
    text: ChatTokenizer
    engine: EngineClient
    lease: Lease | None = None

    def answers_to(self, name: str) -> bool:
        """Whether a request for `name` is meant for this model."""
        return name == self.name or any(fnmatch.fnmatchcase(name, alias) for alias in self.aliases)
