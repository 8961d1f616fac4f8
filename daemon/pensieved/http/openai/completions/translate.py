"""Legacy completions to neutral requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pensieved.chat.conversation import RawPrompt
from pensieved.http.completion import CompletionRequest
from pensieved.http.openai.completions.schema import DEFAULT_MAX_TOKENS, MOST_ANSWERS
from pensieved.http.openai.translate import refuse, sampling, stop_strings

if TYPE_CHECKING:
    from pensieved.http.openai.completions.schema import CompletionsRequest


def to_completions(request: CompletionsRequest) -> list[CompletionRequest]:
    """Neutral requests of one choice, one for each prompt.

    Raises:
        RequestError: INVALID, with the path of what cannot be answered.
    """
    count = request.n or 1
    if request.suffix:
        raise refuse("suffix", "Filling in the middle is not supported: leave suffix out.")
    if request.best_of is not None and request.best_of != count:
        raise refuse(
            "best_of", "Choosing the best of several answers is not supported: best_of must equal n."
        )
    if request.echo and request.logprobs is not None:
        raise refuse(
            "logprobs", "Log-probabilities of an echoed prompt are not supported: leave out echo or logprobs."
        )
    found = prompts(request)
    if len(found) * count > MOST_ANSWERS:
        raise refuse(
            "prompt", f"{len(found)} prompts with {count} choices each are more than {MOST_ANSWERS} answers."
        )
    return [
        CompletionRequest(
            model=request.model,
            conversation=prompt,
            max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            stop=stop_strings(request.stop),
            sampling=sampling(request),
            logprobs=request.logprobs,
        )
        for prompt in found
    ]


def prompts(request: CompletionsRequest) -> list[RawPrompt]:
    """The prompts; a list of numbers is one of them.

    Raises:
        RequestError: there is none, one is empty, or numbers and texts are mixed.
    """
    if isinstance(request.prompt, str):
        return [RawPrompt(request.prompt)]
    if not request.prompt:
        raise refuse("prompt", "There is no prompt.")
    ids = [item for item in request.prompt if isinstance(item, int)]
    if ids and len(ids) < len(request.prompt):
        raise refuse("prompt", "Token ids and whole prompts are mixed in one list.")
    if ids:
        return [RawPrompt(tuple(ids))]
    for index, item in enumerate(request.prompt):
        if isinstance(item, list) and not item:
            raise refuse(f"prompt.{index}", "The prompt has no tokens.")
    return [
        RawPrompt(item if isinstance(item, str) else tuple(item))
        for item in request.prompt
        if not isinstance(item, int)
    ]
