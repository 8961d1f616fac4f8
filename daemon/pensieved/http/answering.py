"""The resources that take prompts, of all dialects, by their routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pensieved.http.anthropic.messages import CountTokens, Messages
from pensieved.http.anthropic.signature import Signer
from pensieved.http.completion import Completions
from pensieved.http.openai.chat.resource import ChatCompletions
from pensieved.http.openai.completions.resource import LegacyCompletions
from pensieved.http.openai.embeddings import Embeddings
from pensieved.http.openai.responses.resource import Responses
from pensieved.settings.paths import state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    import falcon

    from pensieved.http.admission import Admission
    from pensieved.http.daemon import Daemon
    from pensieved.http.ledger import Ledger


class Posted(Protocol):
    """A resource of falcon's that takes POST."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer."""


def resources(daemon: Daemon, admission: Admission, ledger: Ledger) -> Mapping[str, Posted]:
    """Those that serve `daemon`; the keys are `deferred.ROUTES`."""
    completions = Completions(daemon, admission, ledger)
    max_body = daemon.settings.server.max_body
    signer = Signer(state_dir() / "thinking.key")
    return {
        "/v1/messages": Messages(completions, max_body, signer),
        "/v1/messages/count_tokens": CountTokens(completions, max_body, signer),
        "/v1/chat/completions": ChatCompletions(completions, max_body),
        "/v1/completions": LegacyCompletions(completions, max_body),
        "/v1/responses": Responses(completions, max_body),
        "/v1/embeddings": Embeddings(completions, max_body),
    }
