"""How answers ended and what they cost, in the words of chat and legacy completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.events import StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

FINISH_REASONS = {
    StopReason.END: "stop",
    StopReason.LENGTH: "length",
    StopReason.CONTEXT: "length",
    StopReason.STOP_SEQUENCE: "stop",
    StopReason.TOOL_USE: "tool_calls",
}


class CompletionDetails(msgspec.Struct):
    """Of the answer's tokens, those of reasoning."""

    reasoning_tokens: int


class PromptDetails(msgspec.Struct):
    """Of the prompt's tokens, those that a prompt cache held."""

    cached_tokens: int


class CompletionUsage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def completion_usage(usages: Mapping[int, Usage], per_prompt: int) -> CompletionUsage:
    """Of all choices together; a prompt counts once, however many choices (`per_prompt`) it has."""
    firsts = [usage for index, usage in usages.items() if index % per_prompt == 0]
    prompt = sum(usage.input_tokens for usage in firsts)
    completion = sum(usage.output_tokens for usage in usages.values())
    cached = sum(usage.cached_tokens for usage in firsts)
    reasoning = sum(usage.reasoning_tokens for usage in usages.values())
    return CompletionUsage(
        prompt, completion, prompt + completion, PromptDetails(cached), CompletionDetails(reasoning)
    )


def call_id(neutral: str) -> str:
    """A tool call's id as clients know it."""
    return f"call_{neutral}"
