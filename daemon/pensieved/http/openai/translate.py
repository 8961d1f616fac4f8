"""Fields that all OpenAI's routes share, to neutral ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pensieved.chat.conversation import ToolChoice, ToolDefinition, ToolMode
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.completion import SamplingWishes
from pensieved.http.jsonbody import check_depth, invalid

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pensieved.http.openai.schema import SamplingFields

_arguments = msgspec.json.Decoder(dict[str, Any])

_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema behind `json_object`."""


def refuse(path: str, what: str) -> RequestError:
    """A request that is wrong at `path`."""
    return RequestError(RequestErrorKind.INVALID, what, path=path)


def sampling(request: SamplingFields) -> SamplingWishes:
    """How tokens are chosen.

    Raises:
        RequestError: a bias for something that is no token id.
    """
    return SamplingWishes(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=tuple(_bias(request.logit_bias or {})),
    )


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Each once; an empty one is none."""
    if isinstance(stop, str):
        return (stop,) if stop else ()
    return tuple(dict.fromkeys(stop or ()))


def thinking(effort: str | None) -> tuple[bool | None, str | None]:
    """Whether to reason, and how much: (`Conversation.thinking`, `Conversation.effort`)."""
    if effort is None:
        return None, None
    if effort == "none":
        return False, None
    return True, _EFFORTS.get(effort, effort)


def call_arguments(text: str, path: str) -> dict[str, Any]:
    """A call's arguments, which travel as JSON text; an empty one is an empty object.

    Raises:
        RequestError: it is no JSON object.
    """
    if not text.strip():
        return {}
    try:
        arguments = _arguments.decode(text)
    except msgspec.ValidationError as error:
        raise invalid(error, path) from error
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise refuse(path, f"The arguments are not valid JSON: {error}.") from error
    check_depth(arguments, path)
    return arguments


def tool(
    name: str, description: str | None, parameters: dict[str, Any] | None, *, strict: bool | None, path: str
) -> ToolDefinition:
    """A function tool, whose parameters stand at `path`; one without parameters takes none.

    Raises:
        RequestError: the parameters are no schema of an object.
    """
    if parameters is None:
        return ToolDefinition(name=name, description=description or "", strict=bool(strict), path=path)
    check_depth(parameters, path)
    if parameters.get("type", "object") != "object":
        raise refuse(f"{path}.type", "The parameters of a function are an object.")
    return ToolDefinition(
        name=name, description=description or "", schema=parameters, strict=bool(strict), path=path
    )


def check_unique(tools: Sequence[ToolDefinition], path_of: Sequence[str]) -> None:
    """Refuse tools that share a name.

    Raises:
        RequestError: INVALID, at the second one.
    """
    seen: set[str] = set()
    for definition, path in zip(tools, path_of, strict=True):
        if definition.name in seen:
            raise refuse(path, f"There are two tools named {definition.name!r}.")
        seen.add(definition.name)


def tool_choice(mode: str, name: str | None, names: Collection[str], *, parallel: bool | None) -> ToolChoice:
    """What the client wants of the tools `names`; `name` is the one that must be called.

    Raises:
        RequestError: a call is demanded of a tool that is not offered.
    """
    more = parallel is None or parallel
    if name is not None:
        if name not in names:
            raise refuse("tool_choice", f"There is no tool named {name!r}.")
        return ToolChoice(mode=ToolMode.TOOL, name=name, parallel=more)
    if mode == "required":
        if not names:
            raise refuse("tool_choice", "A call is required, but there are no tools.")
        return ToolChoice(mode=ToolMode.ANY, parallel=more)
    return ToolChoice(mode=ToolMode.NONE if mode == "none" else ToolMode.AUTO, parallel=more)


def _bias(biases: Mapping[str, float]) -> list[tuple[int, float]]:
    pairs = []
    for token, bias in biases.items():
        if not (token.isascii() and token.isdecimal() and len(token) <= len(str(2**31))):
            raise refuse("logit_bias", f"{token[:40]!r} is no token id of the model's vocabulary.")
        pairs.append((int(token), bias))
    return pairs
