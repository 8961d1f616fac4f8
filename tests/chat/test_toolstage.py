"""Tool calls are found in every format, streamed while they are written, and never lose a word."""

import itertools
import json

import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieved.chat.conversation import ToolDefinition
from pensieved.chat.events import TextDelta, ToolArgumentsDelta, ToolCallEnd, ToolCallStart
from pensieved.chat.toolformat import DSML, FORMATS, GENERIC, deepseek
from pensieved.chat.toolstage import ToolStage

TOOLS = (
    ToolDefinition(
        name="get",
        schema={
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "n": {"type": "integer"},
                "l": {"type": "array"},
                "o": {"type": ["object", "null"]},
                "x": {"anyOf": [{"type": "number"}, {"type": "string"}]},
            },
        },
    ),
    ToolDefinition(name="b"),
)
HERMES = '<tool_call>\n{"name": "get", "arguments": {"city": "Rome"}}\n</tool_call>'


def text(words):
    return ("text", words)


def call(name="get", *, complete=True, **arguments):
    return ("call", name, arguments, complete)


def run(parser, chunks, *, parallel=True):
    """Deltas of a stage, in the shape of `text` and `call`; a cut-off call has what is complete of its arguments."""
    stage = ToolStage(FORMATS[parser], TOOLS, parallel=parallel)
    deltas = [delta for chunk in chunks for delta in stage.feed([TextDelta(chunk)])] + stage.flush()
    seen: list[list] = []
    for delta in deltas:
        if isinstance(delta, TextDelta):
            if seen and seen[-1][0] == "text":
                seen[-1][1] += delta.text
            else:
                seen.append(["text", delta.text])
        elif isinstance(delta, ToolCallStart):
            seen.append(["call", delta.name, "", False, delta.call_id])
        elif isinstance(delta, ToolArgumentsDelta):
            assert delta.call_id == seen[-1][4]
            seen[-1][2] += delta.json
        else:
            assert isinstance(delta, ToolCallEnd)
            assert delta.call_id == seen[-1][4]
            json.loads(seen[-1][2])
            seen[-1][3] = True
    for item in seen:
        if item[0] == "call":
            item[2] = pydantic_core.from_json(item[2] or "{}", allow_partial=True)
            del item[4]
    return [tuple(item) for item in seen]


KIMI = "<|tool_call_begin|>functions.{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
DSML_CALLS = "<DSMLfunction_calls>\n{}\n</DSMLfunction_calls>"
K3_CALL = '<|open|>call tool="{}" index="1"<|sep|>{}<|close|>call<|sep|>'
K3_ARGUMENT = '<|open|>argument key="{}" type="{}"<|sep|>{}<|close|>argument<|sep|>'

CASES = {
    "one": ("json_tools", HERMES, [call(city="Rome")]),
    "text around": (
        "json_tools",
        f"I look.\n{HERMES}\nDone.",
        [text("I look.\n"), call(city="Rome"), text("\nDone.")],
    ),
    "parallel": (
        "json_tools",
        f'{HERMES}\n<tool_call>\n{{"name": "b", "arguments": {{}}}}\n</tool_call>\n',
        [call(city="Rome"), call("b")],
    ),
    "arguments first": (
        "json_tools",
        '<tool_call>{"arguments": {"n": 1}, "name": "get"}</tool_call>',
        [call(n=1)],
    ),
    "arguments as text": (
        "json_tools",
        '<tool_call>{"name": "get", "arguments": "{\\"n\\": 1}"}</tool_call>',
        [call(n=1)],
    ),
    "no arguments": ("json_tools", '<tool_call>{"name": "b"}</tool_call>', [call("b")]),
    "null arguments": ("json_tools", '<tool_call>{"name": "b", "arguments": null}</tool_call>', [call("b")]),
    "more fields": (
        "json_tools",
        '<tool_call>{"id": 7, "name": "b", "arguments": {}, "type": "function"}</tool_call>',
        [call("b")],
    ),
    "several in one section": (
        "json_tools",
        '<tool_call>{"name": "b"}\n{"name": "get", "arguments": {"n": 2}}</tool_call>',
        [call("b"), call(n=2)],
    ),
    "slips are mended": (
        "json_tools",
        '<tool_call>{"name": "get", "arguments": {"city": "a\n\\d\\\'", "o": None, "l": [True]}}</tool_call>',
        [call(city="a\n\\d'", o=None, l=[True])],
    ),
    "halves of characters": (
        "json_tools",
        '<tool_call>{"name": "get", "arguments": {"city": "\\ud83d\\ude42\\ud83d \\ude42"}}</tool_call>',
        [call(city="🙂\ufffd \ufffd")],
    ),
    "no end marker": ("json_tools", '<tool_call>{"name": "b"}', [call("b")]),
    "half an end marker": ("json_tools", '<tool_call>{"name": "b"}\n</tool_ca', [call("b")]),
    "cut off": (
        "json_tools",
        '<tool_call>{"name": "get", "arguments": {"n": 3, "city": "Ro',
        [call(n=3, complete=False)],
    ),
    "cut off before it is a call": ("json_tools", 'So: <tool_call>{"na', [text('So: <tool_call>{"na')]),
    "a marker in passing": (
        "json_tools",
        f"A <tool_call> is {{nice}}. {HERMES}",
        [text("A <tool_call> is {nice}. "), call(city="Rome")],
    ),
    "no call after whitespace": ("json_tools", "\n <tool_call>no", [text("\n <tool_call>no")]),
    "goes wrong midway": (
        "json_tools",
        '<tool_call>{"name": "get", "arguments": {"n": 1, b}} tail',
        [call(n=1, complete=False), text("b}} tail")],
    ),
    "name is no text": (
        "json_tools",
        '<tool_call>{"name": 5}</tool_call>',
        [text('<tool_call>{"name": 5}</tool_call>')],
    ),
    "arguments are no object": (
        "json_tools",
        '<tool_call>{"name": "get", "arguments": [1]}</tool_call>',
        [text('<tool_call>{"name": "get", "arguments": [1]}</tool_call>')],
    ),
    "plain text": ("json_tools", "  Just < text.\n", [text("  Just < text.\n")]),
    "mistral": (
        "mistral",
        '[TOOL_CALLS] [{"name": "get", "arguments": {"n": 1}}, {"name": "b", "arguments": {}, "id": "a"}]',
        [call(n=1), call("b")],
    ),
    "mistral with headers": (
        "mistral_header",
        'Hm.[TOOL_CALLS]get[ARGS]{"n": 1}[TOOL_CALLS]b[CALL_ID]abc[ARGS]{}',
        [text("Hm."), call(n=1), call("b")],
    ),
    "mistral with headers, unannounced": ("mistral", '[TOOL_CALLS]get[ARGS]{"n": 1}', [call(n=1)]),
    "mistral without a call": (
        "mistral_header",
        "[TOOL_CALLS] I would not.",
        [text("[TOOL_CALLS] I would not.")],
    ),
    "llama": (
        "llama3_json",
        ' {"name": "get", "parameters": {"n": 1}}; {"name": "b", "parameters": {}}',
        [call(n=1), call("b")],
    ),
    "llama with its marker": ("llama3_json", '<|python_tag|>{"name": "get", "parameters": {}}', [call()]),
    "llama answers with JSON": ("llama3_json", '{"title": "x"} indeed', [text('{"title": "x"} indeed')]),
    "llama names no tool": ("llama3_json", '{"name": "Bob", "age": 5}', [text('{"name": "Bob", "age": 5}')]),
    "llama talks first": (
        "llama3_json",
        'So {"name": "get", "parameters": {}}',
        [text('So {"name": "get", "parameters": {}}')],
    ),
    "kimi k2": (
        "kimi_k2",
        "<|tool_calls_section_begin|>"
        + KIMI.format("get:0", '{"n": 1}')
        + KIMI.format("b:1", "{}")
        + "<|tool_calls_section_end|>",
        [call(n=1), call("b")],
    ),
    "kimi k3": (
        "kimi_k3",
        "<|open|>tools<|sep|>"
        + K3_CALL.format(
            "get", K3_ARGUMENT.format("city", "string", "5") + K3_ARGUMENT.format("n", "number", "3")
        )
        + K3_CALL.format("b", '<|open|>json type="object"<|sep|>{"q": [1]}<|close|>json<|sep|>')
        + "<|close|>tools<|sep|>",
        [call(city="5", n=3), call("b", q=[1])],
    ),
    "deepseek v3": (
        "deepseek_v3",
        "I look."
        + deepseek("<|tool_calls_begin|><|tool_call_begin|>function<|tool_sep|>get")
        + '\n```json\n{"city": "a```b", "n": 1}\n```'
        + deepseek("<|tool_call_end|>\n<|tool_call_begin|>function<|tool_sep|>b")
        + "\n```json\n{}\n```"
        + deepseek("<|tool_call_end|><|tool_calls_end|>"),
        [text("I look."), call(city="a```b", n=1), call("b")],
    ),
    "deepseek v3.1": (
        "deepseek_v31",
        deepseek("<|tool_calls_begin|><|tool_call_begin|>get<|tool_sep|>")
        + '{"n": 1}'
        + deepseek("<|tool_call_end|><|tool_call_begin|>b<|tool_sep|>")
        + "{}"
        + deepseek("<|tool_call_end|><|tool_calls_end|>"),
        [call(n=1), call("b")],
    ),
    "deepseek v3.1 cut off": (
        "deepseek_v31",
        deepseek("<|tool_calls_begin|><|tool_call_begin|>get<|tool_sep|>") + '{"n": 1, "city": "R',
        [call(n=1, complete=False)],
    ),
    "deepseek v3.2": (
        "deepseek_dsml",
        "I look.\n\n"
        + DSML_CALLS.format(
            '<DSMLinvoke name="get">\n<DSMLparameter name="city" string="true">5 < 6</DSMLparameter>\n'
            '<DSMLparameter name="x" string="true">5</DSMLparameter>\n'
            '<DSMLparameter name="l" string="false">[1, {"a": null}]</DSMLparameter>\n</DSMLinvoke>\n'
            '<DSMLinvoke name="b">\n</DSMLinvoke>'
        ).replace("DSML", DSML),
        [text("I look.\n\n"), call(city="5 < 6", x="5", l=[1, {"a": None}]), call("b")],
    ),
    "qwen coder": (
        "qwen3_coder",
        (
            "Sure.\n<tool_call>\n<function=get>\n<parameter=city>\n  two\nlines\n\n</parameter>\n"
            "<parameter=n>\n5\n</parameter>\n<parameter=o>\nnull\n</parameter>\n</function>\n</tool_call>"
        ),
        [text("Sure.\n"), call(city="  two\nlines\n", n=5, o=None)],
    ),
    "qwen coder made to write JSON": ("qwen3_coder", HERMES, [call(city="Rome")]),
    "qwen coder cut off": (
        "qwen3_coder",
        "<tool_call>\n<function=get>\n<parameter=n>\n5\n</parameter>\n<parameter=city>\nRo",
        [call(n=5, complete=False)],
    ),
    "qwen coder without tags": (
        "qwen3_coder",
        "<tool_call>\nget the city</tool_call>",
        [text("<tool_call>\nget the city</tool_call>")],
    ),
    "glm": (
        "glm47",
        (
            "<tool_call>get\n<arg_key>city</arg_key>\n<arg_value>a<b</arg_value>\n<arg_key>l</arg_key>\n"
            "<arg_value>[1, 2]</arg_value>\n<arg_key>x</arg_key><arg_value>5</arg_value></tool_call><tool_call>b</tool_call>"
        ),
        [call(city="a<b", l=[1, 2], x=5), call("b")],
    ),
    "longcat": (
        "longcat",
        (
            "<longcat_tool_call>get\n<longcat_arg_key>city</longcat_arg_key>\n"
            "<longcat_arg_value>x</longcat_arg_value>\n</longcat_tool_call>"
        ),
        [call(city="x")],
    ),
    "minimax": (
        "minimax_m2",
        (
            '<minimax:tool_call>\n<invoke name="get">\n<parameter name="city">x</parameter>\n'
            '<parameter name="n">7</parameter>\n</invoke>\n<invoke name="b">\n</invoke>\n</minimax:tool_call>'
        ),
        [call(city="x", n=7), call("b")],
    ),
    "minicpm": (
        "minicpm5",
        '<function name="get"><param name="city"><![CDATA[a<b]]></param></function><function name="b"></function>',
        [call(city="a<b"), call("b")],
    ),
    "muse spark": (
        "muse_spark",
        (
            '<atem:function_calls>\n<atem:invoke name="get">\n<atem:parameter name="city">x</atem:parameter>\n'
            "</atem:invoke>\n</atem:function_calls>"
        ),
        [call(city="x")],
    ),
    "pythonic": (
        "pythonic",
        '<|tool_call_start|>[get(city="x", n=5, l=[true, None]), b()]<|tool_call_end|>',
        [call(city="x", n=5, l=[True, None]), call("b")],
    ),
    "pythonic without an end": ("pythonic", "<|tool_call_start|>[b()]", [call("b")]),
    "pythonic nonsense": (
        "pythonic",
        "<|tool_call_start|>[b(1)]<|tool_call_end|>!",
        [text("<|tool_call_start|>[b(1)]<|tool_call_end|>!")],
    ),
    "pythonic beyond JSON": (
        "pythonic",
        "<|tool_call_start|>[b(x=1e999)]<|tool_call_end|>",
        [text("<|tool_call_start|>[b(x=1e999)]<|tool_call_end|>")],
    ),
    "pythonic made to write JSON": ("pythonic", HERMES, [call(city="Rome")]),
    "gemma": (
        "gemma4",
        '<|tool_call>call:get{city:<|"|>a, {b}<|"|>,n:5,l:[<|"|>x<|"|>,true],o:{k:1}}<tool_call|>',
        [call(city="a, {b}", n=5, l=["x", True], o={"k": 1})],
    ),
    "function gemma": (
        "function_gemma",
        "<start_function_call>call:get{city:<escape>x<escape>,n:5}<end_function_call>",
        [call(city="x", n=5)],
    ),
}


@pytest.mark.parametrize(("parser", "answer", "expected"), CASES.values(), ids=CASES)
def test_formats(parser, answer, expected):
    assert run(parser, [answer]) == expected
    assert run(parser, list(answer)) == expected


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_split(name, data):
    parser, answer, expected = CASES[name]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=12)))
    edges = [0, *cuts, len(answer)]
    assert run(parser, [answer[a:b] for a, b in itertools.pairwise(edges)]) == expected


PIECES = [
    "<tool_call>",
    "</tool_call>",
    "<function=get>",
    "</function>",
    "<parameter=city>",
    "</parameter>",
    "get",
]
PIECES += [
    '{"name": "get"',
    ', "arguments": ',
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    "\n",
    " ",
    "x",
    ":",
    ",",
    "1",
    "<",
    ">",
]
PIECES += [
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "(",
    ")",
    "=",
    "call:",
    "🙂",
    "null",
]
PIECES += [
    deepseek(f"<|tool_{word}|>") for word in ("calls_begin", "call_begin", "sep", "call_end", "calls_end")
]
PIECES += ["function", "\n```json\n", "\n```", f"<{DSML}function_calls>", f'<{DSML}invoke name="get">']
PIECES += [f'<{DSML}parameter name="city" string="true">', f"</{DSML}parameter>", f"</{DSML}invoke>"]
PIECES += ["<|tool_call>", "<tool_call|>", '<|"|>', "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]


@settings(deadline=None)
@given(
    parser=st.sampled_from(sorted(FORMATS)),
    pieces=st.lists(st.sampled_from(PIECES), max_size=30),
    size=st.integers(1, 9),
    parallel=st.booleans(),
)
def test_whatever_a_model_writes_the_split_does_not_matter(parser, pieces, size, parallel):
    answer = "".join(pieces)
    chunks = [answer[start : start + size] for start in range(0, len(answer), size)]
    whole = run(parser, [answer], parallel=parallel)
    assert run(parser, chunks, parallel=parallel) == whole
    if not any(kind == "call" for kind, *_ in whole):
        assert "".join(item[1] for item in whole) == answer


def test_arguments_go_out_while_they_are_written():
    stage = ToolStage(GENERIC, TOOLS, parallel=True)
    assert stage.feed([TextDelta('<tool_call>\n{"name": "get", "arg')]) == []
    start, *arguments = stage.feed([TextDelta('uments": {"city": "Ro')])
    assert isinstance(start, ToolCallStart)
    assert "".join(delta.json for delta in arguments) == '{"city": "Ro'
    assert [delta.json for delta in stage.feed([TextDelta("me")])] == ["me"]


def test_text_arguments_between_tags_go_out_while_they_are_written():
    stage = ToolStage(FORMATS["qwen3_coder"], TOOLS, parallel=True)
    stage.feed([TextDelta("<tool_call>\n<function=get>\n<parameter=city>\nRo")])
    assert [delta.json for delta in stage.feed([TextDelta('m"e\n')])] == ['m\\"e']
    assert [delta.json for delta in stage.feed([TextDelta("</param")])] == []


def test_only_what_could_be_a_marker_is_held_back():
    stage = ToolStage(GENERIC, TOOLS, parallel=True)
    assert stage.feed([TextDelta("a <tool")]) == [TextDelta("a ")]
    assert stage.feed([TextDelta("box>")]) == [TextDelta("<toolbox>")]


def test_one_call_is_enough_where_one_was_wanted():
    stage = ToolStage(GENERIC, TOOLS, parallel=False)
    deltas = stage.feed([TextDelta(f"{HERMES}\n{HERMES} and more")])
    assert [type(delta) for delta in deltas if not isinstance(delta, ToolArgumentsDelta)] == [
        ToolCallStart,
        ToolCallEnd,
    ]
    assert stage.over
    assert stage.feed([TextDelta("more")]) == []
    assert stage.flush() == []


def test_every_call_has_an_id_of_its_own():
    stage = ToolStage(GENERIC, TOOLS, parallel=True)
    starts = [delta for delta in stage.feed([TextDelta(HERMES * 3)]) if isinstance(delta, ToolCallStart)]
    assert len({start.call_id for start in starts}) == 3
