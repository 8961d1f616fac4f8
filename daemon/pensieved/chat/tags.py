"""The tags of formats that write each argument of a call on its own."""

from __future__ import annotations

import msgspec

from pensieved.chat.toolformat import DSML


class Tags(msgspec.Struct, frozen=True, kw_only=True):
    """One format's tags. Patterns match whole tags, up to and with `close`, the text that ends each tag."""

    section: str = ""  # what the section begins with, where that is no call yet
    section_end: str = ""
    call: str  # holds the group `name`
    call_end: str
    argument: str  # holds the group `key`, and perhaps `type` or `string`
    argument_end: str
    close: str = ">"
    pair: tuple[str, str] = ("", "")  # the key stands between these, and `argument` is what follows
    cdata: bool = False
    json_block: str = ""  # a tag after which all arguments stand as one JSON object


def _pairs(prefix: str) -> Tags:
    """A name in the open, then a pair of tags for each key and one for its value."""
    return Tags(
        section=f"<{prefix}tool_call>",
        section_end=f"</{prefix}tool_call>",
        call=r"\s*(?P<name>[^<>]+?)\s*",
        call_end=f"</{prefix}tool_call>",
        argument=f"<{prefix}arg_value>",
        argument_end=f"</{prefix}arg_value>",
        pair=(f"<{prefix}arg_key>", f"</{prefix}arg_key>"),
    )


def _named(call: str, argument: str, section: str = "", *, cdata: bool = False) -> Tags:
    """Elements whose attribute `name` is the tool's and the argument's."""
    name = r"""\bname=["']?(?P<{}>[^"'>]+)["']?"""
    return Tags(
        section=f"<{section}>" if section else "",
        section_end=f"</{section}>" if section else "",
        call=rf"<{call}\b[^>]*?{name.format('name')}\s*>",
        call_end=f"</{call}>",
        argument=rf"<{argument}\b[^>]*?{name.format('key')}(?:\s+string=\"(?P<string>true|false)\")?[^>]*>",
        argument_end=f"</{argument}>",
        cdata=cdata,
    )


TAGS = {
    "qwen3_coder": Tags(
        section="<tool_call>",
        section_end="</tool_call>",
        call=r"<function=\s*(?P<name>[^<>\s]+)\s*>",
        call_end="</function>",
        argument=r"<parameter=\s*(?P<key>[^<>]+?)\s*>",
        argument_end="</parameter>",
    ),
    "minimax_m2": _named("invoke", "parameter", "minimax:tool_call"),
    "muse_spark": _named("atem:invoke", "atem:parameter", "atem:function_calls"),
    "deepseek_dsml": _named(f"{DSML}invoke", f"{DSML}parameter", f"{DSML}function_calls"),
    "minicpm5": _named("function", "param", cdata=True),
    "glm47": _pairs(""),
    "laguna": _pairs(""),
    "longcat": _pairs("longcat_"),
    "kimi_k3": Tags(
        section="<|open|>tools<|sep|>",
        section_end="<|close|>tools<|sep|>",
        call=r'<\|open\|>call\b.*?\btool="(?P<name>[^"]+)".*?<\|sep\|>',
        call_end="<|close|>call<|sep|>",
        argument=r'<\|open\|>argument\b.*?\bkey="(?P<key>[^"]*)"(.*?\btype="(?P<type>[^"]*)")?.*?<\|sep\|>',
        argument_end="<|close|>argument<|sep|>",
        close="<|sep|>",
        json_block=r"<\|open\|>json\b.*?<\|sep\|>",
    ),
}
"""By parser name (`toolformat`)."""
