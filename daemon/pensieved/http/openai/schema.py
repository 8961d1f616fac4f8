"""What requests of all OpenAI's routes have in common. Unknown fields are ignored; null means absent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MOST_CHOICES = 8
"""Of one prompt."""

MOST_LOGPROBS = 20
_MOST, _LEAST = 2**63 - 1, -(2**63)

ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
ToolName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]
Count = Annotated[int, Meta(ge=0)]
Top = Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Schema = dict[str, Any]


class SamplingFields(msgspec.Struct, kw_only=True):
    """How tokens are chosen. `top_k`, `min_p` and `repetition_penalty` are not OpenAI's; other servers take them."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=_LEAST, le=_MOST)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None


class StreamOptions(msgspec.Struct):
    """`include_usage` asks for a last chunk with the token counts."""

    include_usage: bool | None = None


class GeneratingFields(SamplingFields, kw_only=True):
    """Chat and legacy completions."""

    model: ModelName
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[StopString], Meta(max_length=256)] | None = None


ToolMode = Literal["none", "auto", "required"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
