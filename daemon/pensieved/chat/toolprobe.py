"""How a chat template takes tools: whether it describes them, and what its calls and results must look like.

Asked by rendering, like everything in `shape`. A template that loses a tool, a call or a result, or whose way
to write calls nobody here can read, is treated as one that knows no tools.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.conversation import Role, ToolCallPart, ToolResultPart, Turn
from pensieved.chat.toolformat import DSML, FORMATS, GENERIC, HARMONY, Style, ToolFormat, deepseek
from pensieved.chat.toolshape import CallIds, ToolShape, content, tool_messages
from pensieved.errors import RequestError

if TYPE_CHECKING:
    from pensieved.chat.template import ChatTemplate, Message

_NAME, _KEY, _RESULT = "probe_tool", "probekey", "proberesult"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "probe description",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "probe argument"}},
            "required": [_KEY],
        },
    },
}


def probe_tools(template: ChatTemplate, parser: str, *, as_parts: bool) -> ToolShape | None:
    """Ask `template`; `parser` is mlx-lm's name of its format, or empty. None: it takes no tools."""
    described = _render(template, [_user("probe", as_parts=as_parts)])
    if described is None or _NAME not in described or _KEY not in described:
        return None
    for call_ids in (CallIds.COUNTED,) if parser == "kimi_k2" else (CallIds.ANY, CallIds.NINE):
        for as_text in (False, True):
            shape = ToolShape(
                form=GENERIC,
                arguments_as_text=as_text,
                call_ids=call_ids,
                parallel_calls=False,
                user_after_results=False,
            )
            text = _probed(template, shape, calls=1, as_parts=as_parts)
            if text is not None:
                return _completed(template, shape, parser, text, as_parts=as_parts)
    return None


def _completed(
    template: ChatTemplate, shape: ToolShape, parser: str, text: str, *, as_parts: bool
) -> ToolShape | None:
    form = _format(parser, text, _render(template, [_user("probe0", as_parts=as_parts)]) or "")
    if form is None:
        return None
    return msgspec.structs.replace(
        shape,
        form=form,
        parallel_calls=_probed(template, shape, calls=2, as_parts=as_parts) is not None,
        user_after_results=_probed(template, shape, calls=1, after=True, as_parts=as_parts) is not None,
    )


def _user(text: str, *, as_parts: bool) -> Message:
    return {"role": Role.USER.value, "content": content(text, as_parts=as_parts)}


def _render(template: ChatTemplate, messages: list[Message]) -> str | None:
    try:
        return template.render(messages, tools=[_PROBE_TOOL])
    except RequestError:
        return None


def _probed(
    template: ChatTemplate, shape: ToolShape, *, calls: int, as_parts: bool, after: bool = False
) -> str | None:
    """The rendered text of a conversation with calls, if nothing in it is lost or out of order."""
    ids = [f"toolu_probe{number}" for number in range(calls)]
    values = [f"probevalue{number}" for number in range(calls)]
    results = [f"{_RESULT}{number}" for number in range(calls)]
    call_parts = zip(ids, values, strict=True)
    asked = Turn(
        Role.ASSISTANT, tuple(ToolCallPart(each, _NAME, {_KEY: value}) for each, value in call_parts)
    )
    result_parts = zip(ids, results, strict=True)
    told = Turn(Role.TOOL, tuple(ToolResultPart(each, _NAME, result) for each, result in result_parts))
    numbers: dict[str, str] = {}
    messages = [_user("probe0", as_parts=as_parts)]
    for turn in (asked, told):
        messages += tool_messages(turn, shape, numbers, as_parts=as_parts)
    words = ["probe0", *values, *results]
    if after:
        messages.append(_user("probe1", as_parts=as_parts))
        words.append("probe1")
    text = _render(template, messages)
    places = [(text or "").find(word) for word in words]
    complete = min(places) >= 0 and places == sorted(places) and (text or "").count(values[0]) == 1
    return text if complete else None


_OBJECT = re.compile(
    r"(?P<begin><[^<>\s]{1,60}>|\[[A-Z_]{2,40}\])?(?P<gap>\s*)"
    rf'\{{\s*"name":\s?"{_NAME}",\s?"(?P<key>arguments|parameters)":\s?\{{.*?\}}\s*\}}\s*(?P<end></[^<>\s]{{1,60}}>)?',
    re.DOTALL,
)


# What no other format writes, of those that mlx-lm has no name for; the first that is found decides.
_MARKS = (
    ("<|channel|>commentary", HARMONY),
    (f"<{DSML}function_calls>", FORMATS["deepseek_dsml"]),
    (deepseek("<|tool_call_begin|>function<|tool_sep|>"), FORMATS["deepseek_v3"]),
    (deepseek("<|tool_sep|>"), FORMATS["deepseek_v31"]),
)


def _format(parser: str, text: str, header: str) -> ToolFormat | None:
    """How a rendered conversation writes its call; `header` is a prompt that ends where an answer begins."""
    if parser == "mistral" and "[ARGS]" in text:
        return FORMATS["mistral_header"]
    if parser in FORMATS:
        return FORMATS[parser]
    for mark, form in _MARKS:
        if mark in text:
            return form
    found = _OBJECT.search(text, text.find("probe0"))
    if found is None:
        return None
    begin = found["begin"] or ""
    bare = not begin or header.rstrip().endswith(begin)
    if bare:
        return msgspec.structs.replace(
            FORMATS["llama3_json"], middle=f'", "{found["key"]}": ', arguments_key=found["key"]
        )
    return ToolFormat(
        parser="json_tools",
        style=Style.OBJECT,
        begin=begin,
        end=found["end"] or "",
        gap=found["gap"],
        middle=f'", "{found["key"]}": ',
        arguments_key=found["key"],
    )
