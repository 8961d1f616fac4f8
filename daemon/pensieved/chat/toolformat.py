"""How models write tool calls: one description per format, for the parser and for grammars alike.

A call is written as `before` NAME `middle` ARGUMENTS `after`, where the arguments are a JSON object; calls stand
between `begin` and `end`, each alone (`wrapped`) or all together with `separator` between them. That covers
every format whose arguments are JSON. Formats that write each argument on its own (XML-like, Python-like) have
`style` TAGGED or CLOSED and only `begin` and `end` here; `tagged` and `closed` hold the rest. Where a call is
forced, such a model is made to write `GENERIC` instead, because only JSON can be held to a schema: see `forced`.

`begin`, `end` and the pieces may contain special tokens of the model's vocabulary (``[TOOL_CALLS]``).

The parser names are those of mlx-lm's `tool_parsers`, which infers one for each model when it is prepared, and our own
for formats that it does not know: those are recognised by what a template writes (`toolprobe`).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Style(StrEnum):
    """How the arguments are written."""

    OBJECT = "object"  # a call is one JSON object that holds name and arguments, in any order
    HEADER = "header"  # the name, a separator, then the arguments as a JSON object
    TAGGED = "tagged"  # each argument between tags
    CLOSED = "closed"  # a notation of its own, read when the call is complete


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """One way to write tool calls.

    Attributes:
        parser: mlx-lm's name for it, or ours.
        style: how arguments are written.
        begin: what the first call (`wrapped`: each call) begins with; empty where a call is the whole answer.
        end: what follows the last call (`wrapped`: each call); may be empty.
        wrapped: `begin` and `end` stand around each call, not around all.
        gap: whitespace that the model writes between `begin` and the call, and between the call and `end`.
        before: stands before the name.
        middle: stands between name and arguments.
        after: stands after the arguments.
        separator: stands between calls.
        name_key: key of the name, where a call is a JSON object.
        arguments_key: key of the arguments, where a call is a JSON object.
        array: the calls are items of one JSON array.
        channels: text, too, is written in messages with headers.
        marks: other texts that the notation may hold and that may be special tokens.
    """

    parser: str
    style: Style
    begin: str
    end: str = ""
    wrapped: bool = True
    gap: str = ""
    before: str = '{"name": "'
    middle: str = '", "arguments": '
    after: str = "}"
    separator: str = "\n"
    name_key: str = "name"
    arguments_key: str = "arguments"
    array: bool = False
    channels: bool = False
    marks: tuple[str, ...] = ()

    @property
    def pieces(self) -> tuple[str, ...]:
        """Every text that may hold special tokens of the notation."""
        return (self.begin, self.end, self.before, self.middle, self.after, self.separator, *self.marks)

    @property
    def json_arguments(self) -> bool:
        """Whether arguments are written as one JSON object, so that a grammar can hold them to a schema."""
        return self.style in {Style.OBJECT, Style.HEADER}

    @property
    def forced(self) -> ToolFormat:
        """The format in which a call is forced: this one, or `GENERIC` where the arguments are not JSON."""
        return self if self.json_arguments else GENERIC


GENERIC = ToolFormat(
    parser="json_tools",
    style=Style.OBJECT,
    begin="<tool_call>",
    end="</tool_call>",
    gap="\n",
)
"""For models whose template knows no tools (docs/tools.md); also what Hermes and Qwen write."""

PYTHON_TAG = "<|python_tag|>"
"""Llama 3 may write it before a call."""


def deepseek(token: str) -> str:
    """DeepSeek's spelling: fullwidth bars (U+FF5C), and blocks (U+2581) for underscores."""
    return token.translate({ord("|"): "\uff5c", ord("_"): "\u2581"})


DSML = "\uff5cDSML\uff5c"
"""What each of DeepSeek V3.2's tags begins with."""

_MISTRAL_ARRAY = ToolFormat(
    parser="mistral",
    style=Style.OBJECT,
    begin="[TOOL_CALLS]",
    wrapped=False,
    array=True,
    separator=", ",
    marks=("[ARGS]", "[CALL_ID]"),
)
_MISTRAL_HEADER = ToolFormat(
    parser="mistral_header",
    style=Style.HEADER,
    begin="[TOOL_CALLS]",
    before="",
    middle="[ARGS]",
    after="",
    separator="",
    marks=("[CALL_ID]",),
)
_LLAMA3 = ToolFormat(
    parser="llama3_json",
    style=Style.OBJECT,
    begin="",
    middle='", "parameters": ',
    arguments_key="parameters",
    separator="; ",
    marks=(PYTHON_TAG,),
)
_KIMI_K2 = ToolFormat(
    parser="kimi_k2",
    style=Style.HEADER,
    begin="<|tool_calls_section_begin|>",
    end="<|tool_calls_section_end|>",
    wrapped=False,
    before="<|tool_call_begin|>functions.",
    middle=":0<|tool_call_argument_begin|>",
    after="<|tool_call_end|>",
    separator="",
)
_DEEPSEEK_V3 = ToolFormat(
    parser="deepseek_v3",
    style=Style.HEADER,
    begin=deepseek("<|tool_calls_begin|>"),
    end=deepseek("<|tool_calls_end|>"),
    wrapped=False,
    before=deepseek("<|tool_call_begin|>function<|tool_sep|>"),
    middle="\n```json\n",
    after="\n```" + deepseek("<|tool_call_end|>"),
)
_DEEPSEEK_V31 = ToolFormat(
    parser="deepseek_v31",
    style=Style.HEADER,
    begin=deepseek("<|tool_calls_begin|>"),
    end=deepseek("<|tool_calls_end|>"),
    wrapped=False,
    before=deepseek("<|tool_call_begin|>"),
    middle=deepseek("<|tool_sep|>"),
    after=deepseek("<|tool_call_end|>"),
    separator="",
)
HARMONY = ToolFormat(
    parser="harmony",
    style=Style.HEADER,
    begin="<|channel|>commentary to=functions.",
    before="",
    middle=" <|constrain|>json<|message|>",
    after="",
    separator="<|end|><|start|>assistant",
    channels=True,
)
"""gpt-oss: a call is a message of its own, among those of other channels (`channels` reads them all)."""


def _tagged(parser: str, begin: str, end: str) -> ToolFormat:
    return ToolFormat(parser=parser, style=Style.TAGGED, begin=begin, end=end)


def _closed(parser: str, begin: str, end: str, *marks: str) -> ToolFormat:
    return ToolFormat(parser=parser, style=Style.CLOSED, begin=begin, end=end, marks=marks)


FORMATS: dict[str, ToolFormat] = {
    form.parser: form
    for form in (
        GENERIC,
        _MISTRAL_ARRAY,
        _MISTRAL_HEADER,
        _LLAMA3,
        _KIMI_K2,
        _DEEPSEEK_V3,
        _DEEPSEEK_V31,
        _tagged("deepseek_dsml", f"<{DSML}function_calls>", f"</{DSML}function_calls>"),
        _tagged("qwen3_coder", "<tool_call>", "</tool_call>"),
        _tagged("glm47", "<tool_call>", "</tool_call>"),
        _tagged("laguna", "<tool_call>", "</tool_call>"),
        _tagged("longcat", "<longcat_tool_call>", "</longcat_tool_call>"),
        _tagged("minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>"),
        _tagged("minicpm5", "<function name=", "</function>"),
        _tagged("muse_spark", "<atem:function_calls>", "</atem:function_calls>"),
        _tagged("kimi_k3", "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
        _closed("pythonic", "<|tool_call_start|>", "<|tool_call_end|>"),
        _closed("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>'),
        _closed("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"),
    )
}
"""Formats of calls that stand in the answer's text, by parser name."""
